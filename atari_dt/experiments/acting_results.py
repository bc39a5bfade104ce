"""The result of `compare_acting.py`: episodes of the same models under several ways to play."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from atari_dt.evaluation.play_config import PlayConfig
from atari_dt.experiments.acting_variants import ActingVariant, LeftOut, Question
from atari_dt.method_config import MethodConfig, read_method_config
from atari_dt.training.training_run import Hardware
from replay_data.json_fields import (
    read_count,
    read_dataclass,
    read_field,
    read_format_version,
    read_object,
)
from replay_data.recording import check_game_name

TYPE = "acting"

FORMAT_VERSION = 1


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
    """What all variants have in common, and a resumed comparison with the ones before.

    Attributes:
        game: Name of the game.
        reward_clipping: Whether returns are sums of rewards clipped to [-1, 1].
        model: Config of the method and its network.
        runs: The models.
        episodes: Number of episodes of each model under each variant.
        max_steps: Number of steps after which an episode is truncated.
        seed: Seed of the emulator, the no-ops and the action sampling.
        rom_sha256: Hexadecimal digest of the ROM.
    """

    game: str
    reward_clipping: bool
    model: MethodConfig
    runs: tuple[ComparedRun, ...]
    episodes: int
    max_steps: int
    seed: int
    rom_sha256: str

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` reads."""
        fields = {each.name: getattr(self, each.name) for each in dataclasses.fields(self)}
        return {**fields, "model": self.model.to_json(), "runs": [dataclasses.asdict(run) for run in self.runs]}

    @classmethod
    def from_json(cls, content: Any) -> ComparisonSettings:
        """Read what `to_json` returned."""
        return cls(
            game=check_game_name(read_field(content, "game", str)),
            reward_clipping=read_field(content, "reward_clipping", bool),
            model=read_method_config(content["model"]),
            runs=tuple(read_dataclass(run, ComparedRun) for run in content["runs"]),
            episodes=read_count(content, "episodes", minimum=1),
            max_steps=read_count(content, "max_steps", minimum=1),
            seed=read_count(content, "seed"),
            rom_sha256=read_field(content, "rom_sha256", str),
        )


@dataclass(frozen=True)
class ComparisonSession:
    """One call of the command.

    Attributes:
        command: The command, with the last two parts of absolute paths.
        date: Day on which it began, such as ``2026-01-31``.
        hardware: Machine that played.
        versions: Versions of Python and of the packages, by name.
    """

    command: str
    date: str
    hardware: Hardware
    versions: Mapping[str, str]

    @classmethod
    def from_json(cls, content: Any) -> ComparisonSession:
        """Read what `dataclasses.asdict` returned."""
        hardware = read_dataclass(content["hardware"], Hardware)
        return read_dataclass({**read_object(content), "hardware": hardware}, cls)


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
    """What the models achieved under a variant.

    Attributes:
        variant: How they played.
        session: Index of the session in which they did.
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

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` reads."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, content: Any) -> VariantResult:
        """Read what `to_json` returned."""
        return cls(
            variant=ActingVariant.from_json(content["variant"]),
            session=read_count(content, "session"),
            random_mean=read_field(content, "random_mean", float),
            runs=tuple(read_dataclass(run, RunEpisodes) for run in content["runs"]),
        )


@dataclass(frozen=True)
class ActingComparison:
    """The content of the file that `compare_acting.py` writes.

    Attributes:
        settings: What all variants have in common.
        sessions: The calls of the command.
        left_out: Settings that have no effect on the models.
        results: Results of the variants that were played so far; the default is the first.
    """

    settings: ComparisonSettings
    sessions: tuple[ComparisonSession, ...]
    left_out: tuple[LeftOut, ...]
    results: tuple[VariantResult, ...]

    def of_question(self, question: Question) -> list[VariantResult]:
        """Return the default and the variants of a question, in order of temperature, target return, or as played."""
        results = [each for each in self.results if each.variant.question in ("default", question)]
        if question == "sampling":
            return sorted(results, key=lambda each: -each.variant.sampling.temperature)
        if question == "target":
            return sorted(results, key=lambda each: each.target_return or 0.0)
        return results

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` reads."""
        return {
            "type": TYPE,
            "format_version": FORMAT_VERSION,
            "settings": self.settings.to_json(),
            "sessions": [dataclasses.asdict(session) for session in self.sessions],
            "left_out": [dataclasses.asdict(each) for each in self.left_out],
            "results": [result.to_json() for result in self.results],
        }

    @classmethod
    def from_json(cls, content: Any) -> ActingComparison:
        """Read what `to_json` returned.

        Raises:
            InputError, ValueError, KeyError, TypeError: If the content is malformed.
        """
        if read_field(content, "type", str) != TYPE:
            raise ValueError(f"type is {content['type'][:80]!r}, not {TYPE!r}")
        read_format_version(content, FORMAT_VERSION)
        comparison = cls(
            settings=ComparisonSettings.from_json(content["settings"]),
            sessions=tuple(map(ComparisonSession.from_json, content["sessions"])),
            left_out=tuple(read_dataclass(each, LeftOut) for each in content["left_out"]),
            results=tuple(map(VariantResult.from_json, content["results"])),
        )
        comparison._check()
        return comparison

    def _check(self) -> None:
        """Raise ValueError if the results contradict each other or the settings."""
        if not self.settings.runs or not self.results or self.results[0].variant.question != "default":
            raise ValueError("it has no results of the default")
        names = [result.variant.name for result in self.results]
        if len(set(names)) < len(names):
            raise ValueError("it has two results of the same variant")
        PlayConfig(episodes=self.settings.episodes, max_steps=self.settings.max_steps)
        for result in self.results:
            lists = [values for run in result.runs for values in (run.scores, run.returns, run.lengths)]
            if len(result.runs) != len(self.settings.runs) or set(map(len, lists)) != {self.settings.episodes}:
                raise ValueError(f"{result.variant.name} has other numbers of runs or episodes than the settings")
            if result.session >= len(self.sessions):
                raise ValueError(f"{result.variant.name} was played in a session that is missing")
        conditioned = {run.target_return is not None for result in self.results for run in result.runs}
        if conditioned != {self.settings.model.conditioned}:
            raise ValueError("its models and its episodes differ in whether they have target returns")
