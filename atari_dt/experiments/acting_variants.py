"""The ways to play that `compare_acting.py` compares: sampling, target returns and evaluation protocols.

Each variant differs from the default in one point: temperature 1, the data's largest return as the target, and the
protocol ``dopamine``. Settings without an effect on a model are left out, with the reason.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from atari_dt.evaluation.target_returns import compute_target_returns, lacks_positive_return, look_up_percentiles
from atari_dt.method_config import SequenceConfig
from atari_dt.model.checkpoint_config import CheckpointConfig
from atari_dt.model.dataset_info import DatasetInfo
from atari_dt.policies.protocol import PROTOCOLS, EvaluationProtocol
from atari_dt.policies.sampling import Sampling
from replay_data import InputError

Question = Literal["default", "sampling", "target", "protocol"]

DEFAULT_TEMPERATURES = (0.5, 0.0)

DEFAULT_MULTIPLES = (0.0, 0.25, 0.5, 0.75, 1.5, 2.0, 5.0)

DEFAULT_PERCENTILES = (0, 25, 50, 75, 90)
"""Percentiles of the returns that are played in place of multiples where the largest return is not positive."""

_LABELS = {
    "sticky_actions": "no sticky actions",
    "frames": "bilinear frames",
    "noop_max": "0 to 29 no-ops first",
    "second_reset": "second reset",
    "window_timestep": "timestep of the newest step",
    "reward_units": "unclipped rewards",
    "integer_returns": "integer returns-to-go",
    "cache": "no cache",
}
"""What the original's value of each setting of a protocol means."""


@dataclass(frozen=True)
class ActingVariant:
    """A way to play.

    Attributes:
        name: Unique name, such as ``temperature-0.5``.
        question: The question that it answers; ``default`` for the variant that the others are compared with.
        label: Name in tables.
        protocol: Protocol of the environment and of conditioning.
        sampling: How actions are sampled.
        return_multiple: Target return as a multiple of the data's largest return; None for a target return given
            another way, and for models without target returns.
        return_percentile: Target return as a percentile of the data's episode returns; None as for a multiple.
    """

    name: str
    question: Question
    label: str
    protocol: EvaluationProtocol
    sampling: Sampling
    return_multiple: float | None
    return_percentile: int | None = None


@dataclass(frozen=True)
class LeftOut:
    """A setting that was not played.

    Attributes:
        label: Name of the setting in tables.
        reason: Why it has no effect on the models, without a full stop.
    """

    label: str
    reason: str


@dataclass(frozen=True)
class ActingPlan:
    """The variants to play, the default first, and the settings that are left out."""

    variants: tuple[ActingVariant, ...]
    left_out: tuple[LeftOut, ...]


def plan_variants(
    checkpoints: Sequence[CheckpointConfig],
    temperatures: Sequence[float] = DEFAULT_TEMPERATURES,
    return_multiples: Sequence[float] | None = None,
    return_percentiles: Sequence[int] | None = None,
    with_protocol: bool = True,
) -> ActingPlan:
    """Return the variants for the models of one method, game and architecture.

    Args:
        checkpoints: Config of each model's checkpoint.
        temperatures: Temperatures of the sampling beside 1.
        return_multiples: Target returns beside the largest return of the data, as multiples of it. If neither these nor
            percentiles are given, they are `DEFAULT_MULTIPLES`, or `DEFAULT_PERCENTILES` where the largest return is
            not positive.
        return_percentiles: Target returns as percentiles of the data's episode returns.
        with_protocol: Whether to play under each setting of the original's protocol, and under all of them.

    Raises:
        InputError: If there is no model, one does not sample actions or does not know its data, the models differ, a
            temperature is out of range, or the data has no such target return.
    """
    config, datasets = _check_models(checkpoints)
    default = ActingVariant(
        name="default",
        question="default",
        label="default",
        protocol=EvaluationProtocol().resolved(datasets[0], config),
        sampling=Sampling(),
        return_multiple=1.0 if config.conditioned else None,
    )
    variants, left_out = {default.name: default}, []

    def add(name: str, question: Question, label: str, **changes: Any) -> None:
        variant = dataclasses.replace(default, **changes)
        if variant != default:
            variants[name] = dataclasses.replace(variant, name=name, question=question, label=label)

    for temperature in temperatures:
        if not 0 <= temperature < math.inf:
            raise InputError(f"`temperatures` must be 0 (greedy) or more, not {temperature}")
        label = f"temperature {temperature:g}" + (" (argmax)" if temperature == 0 else "")
        add(f"temperature-{temperature:g}", "sampling", label, sampling=Sampling(temperature))
    if not config.conditioned:
        if return_multiples or return_percentiles:
            raise InputError(
                f"{config.title} has no target return; leave `return_multiples` and `return_percentiles` out"
            )
        left_out.append(LeftOut("other target returns", "the model reads no returns-to-go"))
    else:
        if return_multiples is None and return_percentiles is None:
            if lacks_positive_return(datasets):
                return_percentiles = DEFAULT_PERCENTILES
            else:
                return_multiples = DEFAULT_MULTIPLES
        for dataset in datasets:  # fail before hours of playing
            compute_target_returns(dataset, return_multiples or ())
            look_up_percentiles(dataset, return_percentiles or ())
        for multiple in return_multiples or ():
            add(f"target-{multiple:g}x", "target", f"{multiple:g}×", return_multiple=multiple)
        for percentile in return_percentiles or ():
            changes = {"return_multiple": None, "return_percentile": percentile}
            add(f"target-percentile-{percentile}", "target", f"percentile {percentile}", **changes)
    if with_protocol:
        original = PROTOCOLS["original"]
        if config.timestep_encoding == "per_step":
            original = dataclasses.replace(original, window_timestep="first")
        for name, label in _LABELS.items():
            if reason := _explain_no_effect(name, default.protocol, config, datasets):
                left_out.append(LeftOut(label, reason))
            else:
                protocol = dataclasses.replace(default.protocol, **{name: getattr(original, name)})
                add(name.replace("_", "-"), "protocol", label, protocol=protocol)
        add("original", "protocol", "all of the original's settings", protocol=original)
    return ActingPlan(tuple(variants.values()), tuple(left_out))


def _check_models(checkpoints: Sequence[CheckpointConfig]) -> tuple[SequenceConfig, list[DatasetInfo]]:
    """Return the config that the models share, and their datasets."""
    if not checkpoints:
        raise InputError("no run was given; give the directory of at least one run")
    config = checkpoints[0].model
    if not isinstance(config, SequenceConfig):
        raise InputError(
            f"{config.title} does not sample its actions from probabilities; compare ways to act of a Decision "
            "Transformer or of behavior cloning"
        )
    if any(each.model != config for each in checkpoints):
        raise InputError(
            "these runs differ in the config of their networks; give only runs that differ in nothing but their seed"
        )
    datasets = [each.dataset for each in checkpoints if each.dataset is not None]
    if len(datasets) < len(checkpoints) or any(each.max_return is None for each in datasets):
        raise InputError(
            "a model does not know the largest return of its data, which is the default target return; train it on a "
            "trajectory store"
        )
    return config, datasets


def _explain_no_effect(
    setting: str, default: EvaluationProtocol, config: SequenceConfig, datasets: Sequence[DatasetInfo]
) -> str | None:
    """Return why the original's value of a setting has no effect on the models; None if it has one."""
    if getattr(default, setting) == getattr(PROTOCOLS["original"], setting):
        return "the model cannot use a cache" if setting == "cache" else "the data was recorded in the same way"
    if setting == "window_timestep" and config.timestep_encoding == "none":
        return "the model reads no timesteps"
    if setting == "window_timestep" and config.timestep_encoding == "per_step":
        return "the model reads the timestep of every step"
    if setting in ("reward_units", "integer_returns") and not config.conditioned:
        return "the model reads no returns-to-go"
    if setting == "reward_units" and not datasets[0].reward_clipping:
        return "the rewards of the data are not clipped"
    if setting == "integer_returns" and all(float(each.max_return or 0.0).is_integer() for each in datasets):
        return "target return and rewards are integers anyway"
    return None
