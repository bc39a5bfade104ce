"""The results of an ablation of attention heads: the content of ``heads.json``."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
import numpy.typing as npt

from atari_dt.config import MethodName, describe_differences
from atari_dt.evaluation.paired_differences import PairedDifference, paired_difference
from atari_dt.games.catalogue import find_game
from atari_dt.interpretation.head_ablation import Ablation, Effect, Replacement, list_ablations
from atari_dt.policies.protocol import EvaluationProtocol
from atari_dt.policies.sampling import Sampling
from atari_dt.training.training_run import Hardware
from replay_data import InputError
from replay_data.errors import summarize_error
from replay_data.json_fields import (
    check_range,
    convert,
    read_count,
    read_dataclass,
    read_field,
    read_format_version,
    read_list,
    read_mapping,
    read_object,
    read_optional_field,
    read_probability,
)
from replay_data.storage.regular_files import read_json_file

TYPE = "heads"
"""Value of the field ``type`` of the file."""

FORMAT_VERSION = 1

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class HeadSettings:
    """What decides the results.

    Attributes:
        game: Name of the game.
        method: Name of the model's method.
        run: Names of the run and its checkpoint, such as ``"run/update-00003000"``.
        weights_sha256: Hexadecimal digest of the checkpoint's weights.
        num_layers: Number of layers of the model.
        num_heads: Number of heads in a layer.
        context_length: K.
        target_return: Target return in the dataset's reward units; None for a model without one.
        protocol: Protocol of the episodes, with sticky actions as they were and without a cache.
        sampling: How actions were sampled.
        seed: Seed of the emulator, the action sampling and the sample of contexts.
        episodes: Number of episodes of each model.
        max_steps: Number of steps after which an episode is truncated.
        rom_sha256: Hexadecimal digest of the ROM.
        max_contexts: Largest number of contexts in the sample.
    """

    game: str
    method: MethodName
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

    @property
    def num_tokens(self) -> int:
        """Number of tokens that the query token attends to, itself included."""
        return self.context_length * (2 if self.target_return is None else 3) - 1

    @property
    def title(self) -> str:
        """Game, method and target return as text."""
        target = "" if self.target_return is None else f", target return {self.target_return:g}"
        return f"{find_game(self.game).name}, {self.run}{target}"

    def differences(self, other: HeadSettings) -> str:
        """Return a description of the settings that differ in ``other``, or an empty string."""

        def flatten(settings: HeadSettings) -> dict[str, object]:
            content = dataclasses.asdict(settings)
            protocol, sampling = content.pop("protocol"), content.pop("sampling")
            return {**content, **protocol, **sampling}

        return describe_differences(flatten(self), flatten(other))

    @classmethod
    def from_json(cls, content: Any) -> HeadSettings:
        """Read what `dataclasses.asdict` returned."""
        method = read_field(content, "method", str)
        if method not in ("dt", "bc"):
            raise ValueError(f"method is {method[:80]!r}, not 'dt' or 'bc'")
        return cls(
            game=find_game(read_field(content, "game", str)).name,
            method=cast(MethodName, method),
            run=read_field(content, "run", str),
            weights_sha256=read_field(content, "weights_sha256", str),
            num_layers=read_count(content, "num_layers", 1),
            num_heads=read_count(content, "num_heads", 1),
            context_length=read_count(content, "context_length", 1),
            target_return=read_optional_field(content, "target_return", float),
            protocol=read_dataclass(content["protocol"], EvaluationProtocol),
            sampling=read_dataclass(content["sampling"], Sampling),
            seed=read_count(content, "seed"),
            episodes=read_count(content, "episodes", 1),
            max_steps=read_count(content, "max_steps", 1),
            rom_sha256=read_field(content, "rom_sha256", str),
            max_contexts=read_count(content, "max_contexts", 1),
        )


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

    def to_json(self) -> dict[str, Any]:
        """Return one entry of ``ablations``."""
        return {**dataclasses.asdict(self.ablation), **dataclasses.asdict(self.effect), "scores": self.scores}

    @classmethod
    def from_json(cls, content: Any, settings: HeadSettings) -> AblationResult:
        """Read one entry of ``ablations``."""
        replacement = read_field(content, "replacement", str)
        if replacement not in get_args(Replacement):
            raise ValueError(f"replacement is {replacement[:80]!r}, not 'mean' or 'uniform'")
        indices: dict[str, int | None] = {}
        for name, count in (("layer", settings.num_layers), ("head", settings.num_heads)):
            index = read_optional_field(content, name, int)
            indices[name] = None if index is None else check_range(name, index, 0, count - 1)
        scores = None if content.get("scores") is None else _read_scores(content, settings)
        return cls(
            Ablation(cast(Replacement, replacement), **indices),
            Effect(
                agreement=read_probability(content, "agreement"),
                divergence=check_range("divergence", read_field(content, "divergence", float), 0),
            ),
            scores,
        )


@dataclass(frozen=True)
class HeadResults:
    """What the ablation of each head and each layer of a model changes.

    Attributes:
        settings: What decides the results.
        num_contexts: Number of contexts of K steps that the effects were measured on.
        scores: Scores of the intact model, in points, ``[episodes]``.
        entropy: Mean entropy of each head's attention from the query token in nats, float64 ``[layers, heads]``.
        mean_distance: Mean distance in steps, weighted by attention, float64 ``[layers, heads]``.
        ablations: Results of all ablations, in the order of `list_ablations`.
        command: Command that measured them.
        date: Date on which it started, such as ``"2026-11-27"``.
        hardware: Machine.
        versions: Versions of Python and of some packages, by name.
    """

    settings: HeadSettings
    num_contexts: int
    scores: tuple[float, ...]
    entropy: Doubles
    mean_distance: Doubles
    ablations: tuple[AblationResult, ...]
    command: str
    date: str
    hardware: Hardware
    versions: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """Return the content of ``heads.json``: layers and heads are indices, null for all of them."""
        return {
            "type": TYPE,
            "format_version": FORMAT_VERSION,
            "command": self.command,
            "date": self.date,
            "hardware": dataclasses.asdict(self.hardware),
            "versions": dict(self.versions),
            "settings": dataclasses.asdict(self.settings),
            "num_contexts": self.num_contexts,
            "scores": self.scores,
            "entropy_by_layer_head": self.entropy.tolist(),
            "mean_distance_by_layer_head": self.mean_distance.tolist(),
            "ablations": [result.to_json() for result in self.ablations],
        }

    @classmethod
    def from_json(cls, content: Any) -> HeadResults:
        """Read the content of ``heads.json``.

        Raises:
            InputError, ValueError, KeyError, TypeError: If the content is malformed.
        """
        read_format_version(content, FORMAT_VERSION)
        if read_field(content, "type", str) != TYPE:
            raise ValueError(f"type is not {TYPE!r}")
        settings = HeadSettings.from_json(content["settings"])
        entries = content["ablations"]
        if not isinstance(entries, list):
            raise TypeError("ablations is not a list")
        results = cls(
            settings=settings,
            num_contexts=read_count(content, "num_contexts", 1),
            scores=_read_scores(content, settings),
            entropy=_read_by_head(content, "entropy_by_layer_head", settings),
            mean_distance=_read_by_head(content, "mean_distance_by_layer_head", settings),
            ablations=tuple(AblationResult.from_json(entry, settings) for entry in entries),
            command=read_field(content, "command", str),
            date=read_field(content, "date", str),
            hardware=read_dataclass(content["hardware"], Hardware),
            versions=read_mapping(content, "versions", lambda name, version: convert(version, name, str)),
        )
        size = 2 * (settings.num_layers * settings.num_heads + settings.num_layers + 1)
        ablations = [result.ablation for result in results.ablations]
        if len(ablations) != size or ablations != list_ablations(settings.num_layers, settings.num_heads):
            raise ValueError("ablations are not those of each head, each layer and all layers")
        return results

    def with_scores(self, index: int, scores: tuple[float, ...]) -> HeadResults:
        """Return a copy with the scores of one of the results."""
        ablations = list(self.ablations)
        ablations[index] = dataclasses.replace(ablations[index], scores=scores)
        return dataclasses.replace(self, ablations=tuple(ablations))

    def find(self, replacement: Replacement, layer: int | None = None, head: int | None = None) -> AblationResult:
        """Return the result of an ablation."""
        ablation = Ablation(replacement, layer, head)
        return next(result for result in self.ablations if result.ablation == ablation)

    def by_head(self, replacement: Replacement) -> Doubles:
        """Return the divergence of the ablation of each head in nats, float64 ``[layers, heads]``."""
        layers, heads = range(self.settings.num_layers), range(self.settings.num_heads)
        return np.array([[self.find(replacement, layer, head).effect.divergence for head in heads] for layer in layers])

    def score_change(self, result: AblationResult) -> PairedDifference | None:
        """Return by how many points an ablation changes the interquartile mean, or None if nothing was played."""
        if result.scores is None:
            return None
        return paired_difference([np.array(result.scores)], [np.array(self.scores)])


def read_results(path: Path) -> HeadResults:
    """Read a ``heads.json``.

    Raises:
        InputError: If the file cannot be read or is malformed.
    """
    try:
        return HeadResults.from_json(read_json_file(path))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, InputError) as error:
        raise InputError(
            f"{path} holds no ablation of heads ({summarize_error(error)}); choose another directory, or delete it"
        ) from error


def rank_correlation(a: Doubles, b: Doubles) -> float:
    """Return Spearman's rank correlation of two arrays of the same size; 0 if one of them is constant."""
    if min(np.ptp(a), np.ptp(b)) == 0:
        return 0.0
    # Twice the rank of each value; equal values share their mean rank.
    ranks = [(x[:, None] > x).sum(1) + (x[:, None] >= x).sum(1) for x in (a.ravel(), b.ravel())]
    return float(np.corrcoef(ranks)[0, 1])


def _read_scores(content: Any, settings: HeadSettings) -> tuple[float, ...]:
    scores = read_list(content, "scores", float)
    if len(scores) != settings.episodes:
        raise ValueError(f"scores has {len(scores)} items, not {settings.episodes}")
    return scores


def _read_by_head(content: Any, name: str, settings: HeadSettings) -> Doubles:
    """Return a list of a number for each layer and head as an array."""
    rows = read_object(content)[name]
    if not isinstance(rows, list) or len(rows) != settings.num_layers:
        raise ValueError(f"{name} is not a list of {settings.num_layers} layers")
    values = [read_list({name: row}, name, float) for row in rows]
    if any(len(row) != settings.num_heads for row in values):
        raise ValueError(f"a layer of {name} has not {settings.num_heads} heads")
    return np.array(values)
