"""The results of an ablation of attention heads: the content of ``heads.json``."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt

from atari_dt.config import describe_differences
from atari_dt.evaluation.paired_differences import PairedDifference, paired_difference
from atari_dt.evaluation.play_config import PlayConfig
from atari_dt.games.catalogue import find_game
from atari_dt.interpretation.head_ablation import Ablation, Effect, Replacement, list_ablations
from atari_dt.policies.protocol import EvaluationProtocol
from atari_dt.policies.sampling import Sampling
from atari_dt.rendering.study_file import Session, StudyFile
from replay_data.json_fields import check_range

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class HeadSettings:
    """Settings that decide the results.

    Attributes:
        game: Name of the game.
        method: Name of the model's method.
        run: Names of the run and its checkpoint, such as ``"run/update-00003000"``.
        weights_sha256: Hexadecimal digest of the file of the checkpoint's weights.
        num_layers: Number of layers of the model.
        num_heads: Number of heads in a layer.
        context_length: K.
        target_return: Target return in the dataset's reward units; None for a model without one.
        protocol: Protocol of the episodes, without a cache and with the sticky actions that were played.
        sampling: How actions were sampled.
        seed: Seed of the emulator, the action sampling and the sample of contexts.
        episodes: Number of episodes of each model.
        max_steps: Number of steps after which an episode is truncated.
        rom_sha256: Hexadecimal digest of the ROM.
        max_contexts: Largest number of contexts in the sample.
    """

    game: str
    method: Literal["dt", "bc"]
    run: str
    weights_sha256: str
    num_layers: int
    num_heads: int
    context_length: int
    target_return: float | None
    protocol: EvaluationProtocol
    sampling: Sampling
    seed: int
    episodes: int
    max_steps: int
    rom_sha256: str
    max_contexts: int

    def __post_init__(self) -> None:
        find_game(self.game)
        PlayConfig(episodes=self.episodes, max_steps=self.max_steps, seed=self.seed)  # raises if one is out of range
        for name in ("num_layers", "num_heads", "context_length", "max_contexts"):
            check_range(name, getattr(self, name), 1)

    @property
    def num_tokens(self) -> int:
        """Number of tokens that the query token attends to, itself included."""
        return self.context_length * (2 if self.method == "bc" else 3) - 1

    @property
    def title(self) -> str:
        """Game, run and target return as text."""
        target = "" if self.target_return is None else f", target return {self.target_return:g}"
        return f"{self.game}, {self.run}{target}"

    def differences(self, other: HeadSettings) -> str:
        """Return a description of the settings that differ in ``other``, or an empty string."""

        def flatten(settings: HeadSettings) -> dict[str, object]:
            return {**vars(settings), **vars(settings.protocol), **vars(settings.sampling)}

        return describe_differences(flatten(self), flatten(other), ignore=("protocol", "sampling"))


@dataclass(frozen=True)
class AblationResult:
    """The results of one ablation.

    Attributes:
        ablation: What was ablated.
        effect: Effect on the predicted actions.
        scores: Scores of the episodes that the ablated model played, in points, ``[episodes]``; None if it played none.
    """

    ablation: Ablation
    effect: Effect
    scores: tuple[float, ...] | None = None


@dataclass(frozen=True)
class HeadResults(StudyFile):
    """The effects of the ablation of each head and each layer of a model.

    Attributes:
        session: Call that measured the effects; the last one of a study that was interrupted.
        settings: Settings that decide the results.
        num_contexts: Number of contexts of K steps that the effects were measured on.
        scores: Scores of the intact model, in points, ``[episodes]``.
        entropy: Mean entropy of each head's attention from the query token in nats, ``[layers][heads]``.
        mean_distance: Mean distance in steps, weighted by attention, ``[layers][heads]``.
        ablations: Results of all ablations, in the order of `list_ablations`.
    """

    session: Session
    settings: HeadSettings
    num_contexts: int
    scores: tuple[float, ...]
    entropy: tuple[tuple[float, ...], ...]
    mean_distance: tuple[tuple[float, ...], ...]
    ablations: tuple[AblationResult, ...]

    study_type: ClassVar[str] = "heads"

    def __post_init__(self) -> None:
        settings = self.settings
        layers, heads = settings.num_layers, settings.num_heads
        for name, rows in (("entropy", self.entropy), ("mean_distance", self.mean_distance)):
            if [len(row) for row in rows] != [heads] * layers:
                raise ValueError(f"{name} does not have {layers} layers of {heads} heads")
        if len(self.ablations) != 2 * (layers * heads + layers + 1) or [
            result.ablation for result in self.ablations
        ] != list_ablations(layers, heads):
            raise ValueError("ablations are not those of each head, each layer and all layers")
        for scores in (self.scores, *(result.scores for result in self.ablations)):
            if scores is not None and len(scores) != settings.episodes:
                raise ValueError(f"a model has scores of {len(scores)} episodes, not {settings.episodes}")

    @property
    def unplayed(self) -> list[int]:
        """Indices of the ablations whose models have yet to play."""
        return [i for i, result in enumerate(self.ablations) if result.ablation.plays and result.scores is None]

    def with_scores(self, index: int, scores: tuple[float, ...]) -> HeadResults:
        """Return a copy with the scores of one of the results."""
        ablations = list(self.ablations)
        ablations[index] = dataclasses.replace(ablations[index], scores=scores)
        return dataclasses.replace(self, ablations=tuple(ablations))

    def find(self, replacement: Replacement, layer: int | None = None, head: int | None = None) -> AblationResult:
        """Return the result of an ablation."""
        ablation = Ablation(replacement, layer, head)
        return next(result for result in self.ablations if result.ablation == ablation)

    def divergences(self) -> Doubles:
        """Return the divergence of the mean ablation of each head in nats, float64 ``[layers, heads]``."""
        shape = self.settings.num_layers, self.settings.num_heads
        # The ablations of heads by their means come first.
        return np.array([result.effect.divergence for result in self.ablations[: shape[0] * shape[1]]]).reshape(shape)

    def score_change(self, result: AblationResult) -> PairedDifference | None:
        """Return by how many points an ablation changes the interquartile mean, or None if nothing was played."""
        if result.scores is None:
            return None
        return paired_difference([np.array(result.scores)], [np.array(self.scores)])


def rank_correlation(a: Doubles, b: Doubles) -> float:
    """Return Spearman's rank correlation of two arrays of the same size; 0 if one of them is constant."""
    if min(np.ptp(a), np.ptp(b)) == 0:
        return 0.0
    # Twice the rank of each value; equal values share their mean rank.
    ranks = [(x[:, None] > x).sum(1) + (x[:, None] >= x).sum(1) for x in (a.ravel(), b.ravel())]
    return float(np.corrcoef(ranks)[0, 1])
