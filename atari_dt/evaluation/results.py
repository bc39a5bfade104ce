"""The results of an evaluation, in memory.

`EvaluationResult` holds the episodes of one model under one target return, `Evaluation` those of all models under all
target returns, and of the uniform-random policy. `atari_dt.evaluation.scores` writes an `Evaluation` to a file.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from atari_dt.environment.config import EnvironmentConfig
from atari_dt.environment.rom import rom_sha256
from atari_dt.games.catalogue import Game, find_game
from atari_dt.method_config import MethodConfig
from atari_dt.model.dataset_info import DatasetInfo
from atari_dt.policies.planning_config import PlanningConfig
from atari_dt.policies.protocol import EvaluationProtocol
from atari_dt.policies.sampling import Sampling


@dataclass(frozen=True)
class EvaluatedEpisode:
    """Actions and returns-to-go of one episode. With the emulator's seed, the actions play the episode again.

    Attributes:
        actions: Action indices, uint8 ``[steps]``.
        returns_to_go: Return-to-go before each action, float32 ``[steps]``.
    """

    actions: npt.NDArray[np.uint8]
    returns_to_go: npt.NDArray[np.float32]


@dataclass(frozen=True)
class EvaluationResult:
    """Episodes played under one target return.

    Attributes:
        target_return: Target return, in the dataset's reward units.
        scores: Score of each episode, in the game's points, float64 ``[episodes]``.
        returns: Return of each episode, in the dataset's reward units, float64 ``[episodes]``.
        lengths: Number of steps of each episode, int64 ``[episodes]``.
        emulator_seeds: Emulator seed of each episode, int64 ``[episodes]``.
        episodes: Actions and returns-to-go of each episode.
    """

    target_return: float
    scores: npt.NDArray[np.float64]
    returns: npt.NDArray[np.float64]
    lengths: npt.NDArray[np.int64]
    emulator_seeds: npt.NDArray[np.int64]
    episodes: tuple[EvaluatedEpisode, ...]


@dataclass(frozen=True)
class Evaluation:
    """Results of the models of all training seeds under all target returns, and the settings they were played with.

    Attributes:
        checkpoints: Checkpoint directory of each seed.
        datasets: Training data of each seed; all of the same game.
        config: Config of the first model; all models are of the same method.
        return_multiples: Multiple of the dataset's largest return of each target return; None for a target return given
            another way, and for models without target returns.
        return_percentiles: Percentile of the dataset's episode returns of each target return; None for a target return
            given another way, and for models without target returns.
        results: Results ``[seeds][targets]``.
        random: Result of the uniform-random policy.
        protocol: Protocol of the evaluation.
        sampling: How actions were sampled.
        seed: Seed of the emulator, the no-ops and the action sampling.
        environment: Config of the environments.
        planning: How the models searched for actions; None for models that do not plan.
    """

    checkpoints: tuple[Path, ...]
    datasets: tuple[DatasetInfo, ...]
    config: MethodConfig
    return_multiples: tuple[float | None, ...]
    return_percentiles: tuple[int | None, ...]
    results: tuple[tuple[EvaluationResult, ...], ...]
    random: EvaluationResult
    protocol: EvaluationProtocol
    sampling: Sampling
    seed: int
    environment: EnvironmentConfig
    planning: PlanningConfig | None = None

    @property
    def conditioned(self) -> bool:
        """Whether the models have target returns."""
        return self.config.conditioned

    @property
    def game(self) -> Game:
        """Game that was played."""
        return find_game(self.datasets[0].game)

    @property
    def rom_sha256(self) -> str:
        """Hexadecimal digest of the ROM that was played."""
        return rom_sha256(self.game, self.environment.rom)

    @property
    def num_targets(self) -> int:
        """Number of target returns; 1 for models that have none."""
        return len(self.return_multiples)

    def scores(self, target_index: int) -> list[npt.NDArray[np.float64]]:
        """Return the scores ``[seeds][episodes]`` under a target return."""
        return [results[target_index].scores for results in self.results]

    def returns(self, target_index: int) -> npt.NDArray[np.float64]:
        """Return the returns of all episodes of all seeds under a target return, ``[seeds * episodes]``."""
        return np.concatenate([results[target_index].returns for results in self.results])

    def target_return(self, target_index: int) -> float | None:
        """Return the target return, averaged over the seeds, or None for models that have none.

        The datasets of the seeds may differ in their returns, and so in the target return of a multiple or percentile.
        """
        if not self.conditioned:
            return None
        return float(np.mean([results[target_index].target_return for results in self.results]))

    def label(self, target_index: int) -> str:
        """Return a short name of a target return: ``1x``, ``percentile-90`` or ``target-90``.

        For models without target returns, it is the name of their method, such as ``bc`` or ``cql``.
        """
        if not self.conditioned:
            return self.config.method
        multiple, percentile = self.return_multiples[target_index], self.return_percentiles[target_index]
        if percentile is not None:
            return f"percentile-{percentile}"
        if multiple is None:
            return f"target-{self.results[0][target_index].target_return:g}"
        return f"{multiple:g}x"


def format_origin(return_multiple: float | None, return_percentile: int | None) -> str:
    """Return how a target return was given, to be put after it: ``" (0.5×)"``, ``" (percentile 90)"`` or nothing."""
    if return_percentile is not None:
        return f" (percentile {return_percentile})"
    return "" if return_multiple is None else f" ({return_multiple:g}×)"


def normalization_ranges(game: Game) -> dict[str, tuple[float, float]]:
    """Return the random and human score, in points, of each normalization that has constants for the game.

    ``normalized_as_in_the_paper`` uses the constants of Chen et al. 2021, ``human_normalized`` those of 57 games.
    """
    ranges = {}
    if game.paper is not None:
        ranges["normalized_as_in_the_paper"] = game.paper.random, game.paper.gamer
    if game.random_and_human is not None:
        ranges["human_normalized"] = game.random_and_human
    return ranges
