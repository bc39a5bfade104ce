"""The file of `compare_acting.py`: episodes of the same models under several ways to play."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from atari_dt.config import MethodName
from atari_dt.evaluation.paired_differences import PairedDifference, paired_difference
from atari_dt.evaluation.play_config import PlayConfig
from atari_dt.experiments.acting_variants import ActingVariant, LeftOut, Question
from atari_dt.method_config import default_config
from atari_dt.rendering.study_file import Session, StudyFile
from replay_data.recording import check_game_name


@dataclass(frozen=True)
class ComparedRun:
    """A trained model, and the data that it was trained on.

    Attributes:
        name: Last two parts of the path of its run or checkpoint.
        weights_sha256: Hexadecimal digest of the file of its weights.
        seed: Training seed; None if unknown.
        updates: Number of updates made; None for a checkpoint outside a run.
        data_digest: Digest of the trajectory store; None if unknown.
        max_return: Largest return of the data, in the dataset's reward units.
        mean_return: Mean return of the data; None if unknown.
    """

    name: str
    weights_sha256: str
    seed: int | None
    updates: int | None
    data_digest: str | None
    max_return: float
    mean_return: float | None


@dataclass(frozen=True)
class ComparisonSettings:
    """Settings that are the same for all variants and in all sessions.

    Attributes:
        game: Name of the game.
        reward_clipping: Whether returns are sums of rewards clipped to [-1, 1].
        method: Method of the models.
        runs: Models, at least one.
        episodes: Number of episodes of each model under each variant.
        max_steps: Number of steps after which an episode is truncated.
        seed: Seed of the emulator, the no-ops and the action sampling.
        rom_sha256: Hexadecimal digest of the ROM.
    """

    game: str
    reward_clipping: bool
    method: MethodName
    runs: tuple[ComparedRun, ...]
    episodes: int
    max_steps: int
    seed: int
    rom_sha256: str

    def __post_init__(self) -> None:
        check_game_name(self.game)
        PlayConfig(episodes=self.episodes, max_steps=self.max_steps, seed=self.seed)  # raises if one is out of range


@dataclass(frozen=True)
class RunEpisodes:
    """The episodes of a model under a variant; episode i has the same emulator seed under every variant.

    Attributes:
        target_return: Target return, in the dataset's reward units; None for models without one.
        scores: ``[episodes]``, in the game's points.
        returns: ``[episodes]``, in the dataset's reward units.
        lengths: ``[episodes]``, in steps.
    """

    target_return: float | None
    scores: tuple[float, ...]
    returns: tuple[float, ...]
    lengths: tuple[int, ...]


@dataclass(frozen=True)
class VariantResult:
    """Results of the models under a variant.

    Attributes:
        variant: How the models played.
        session: Index of the session in which they played.
        random_mean: Mean score of a uniform-random policy under the same protocol, in points.
        runs: Episodes of each model.
    """

    variant: ActingVariant
    session: int
    random_mean: float
    runs: tuple[RunEpisodes, ...]

    @property
    def scores(self) -> list[npt.NDArray[np.float64]]:
        """Scores ``[seeds][episodes]``, in points."""
        return [np.array(run.scores) for run in self.runs]

    @property
    def returns(self) -> list[npt.NDArray[np.float64]]:
        """Returns ``[seeds][episodes]``, in the dataset's reward units."""
        return [np.array(run.returns) for run in self.runs]

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Lengths of all episodes of all seeds, in steps, int64 ``[seeds * episodes]``."""
        return np.concatenate([np.array(run.lengths) for run in self.runs])

    @property
    def target_return(self) -> float | None:
        """Target return, averaged over the seeds, whose data may differ; None for models without one."""
        targets = [run.target_return for run in self.runs if run.target_return is not None]
        return float(np.mean(targets)) if targets else None


@dataclass(frozen=True)
class ActingComparison(StudyFile):
    """The content of the file.

    Attributes:
        settings: Settings that are the same for all variants.
        sessions: Calls of the command.
        left_out: Settings that have no effect on the models.
        results: Results of the variants that were played so far; the default is the first.
    """

    settings: ComparisonSettings
    sessions: tuple[Session, ...]
    left_out: tuple[LeftOut, ...]
    results: tuple[VariantResult, ...]

    study_type: ClassVar[str] = "acting"

    def __post_init__(self) -> None:
        if not self.settings.runs or not self.results or self.results[0].variant.question != "default":
            raise ValueError("it has no results of the default")
        names = [result.variant.name for result in self.results]
        if len(set(names)) < len(names):
            raise ValueError("it has two results of the same variant")
        for result in self.results:
            lists = [values for run in result.runs for values in (run.scores, run.returns, run.lengths)]
            if len(result.runs) != len(self.settings.runs) or set(map(len, lists)) != {self.settings.episodes}:
                raise ValueError(f"{result.variant.name} has other numbers of runs or episodes than the settings")
            if not 0 <= result.session < len(self.sessions):
                raise ValueError(f"{result.variant.name} was played in a session that is missing")
        conditioned = {run.target_return is not None for result in self.results for run in result.runs}
        if conditioned != {default_config(self.settings.method).conditioned}:
            raise ValueError("its method and its episodes differ in whether they have target returns")

    def of_question(self, question: Question) -> list[VariantResult]:
        """Return the default and the variants of a question, in order of temperature, target return, or as played."""
        results = [each for each in self.results if each.variant.question in ("default", question)]
        if question == "sampling":
            return sorted(results, key=lambda each: -each.variant.sampling.temperature)
        if question == "target":
            return sorted(results, key=lambda each: each.target_return or 0.0)
        return results

    def difference(self, result: VariantResult) -> PairedDifference:
        """Return the difference of a variant's interquartile mean score from the default's, in points."""
        return paired_difference(result.scores, self.results[0].scores)
