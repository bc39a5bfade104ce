"""Ways to act: which are played, what each changes, and which have no effect on a model."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from atari_dt.config import ModelConfig
from atari_dt.experiments.acting_variants import ActingPlan, ActingVariant, plan_variants
from atari_dt.method_config import CQLConfig, HFDecisionTransformerConfig, MethodConfig
from atari_dt.model.checkpoint_config import CheckpointConfig
from atari_dt.policies.protocol import PROTOCOLS, EvaluationProtocol
from atari_dt.policies.sampling import Sampling
from replay_data import InputError
from tests.atari_dt.models import DATASET

PAPER = ModelConfig(2, 1, 2, 16)
FAST = dataclasses.replace(PAPER, position_encoding="rotary", timestep_encoding="none")
PER_STEP = dataclasses.replace(PAPER, timestep_encoding="per_step")
CLONING = dataclasses.replace(PAPER, conditioning="none")


def checkpoint(config: MethodConfig, **dataset: Any) -> CheckpointConfig:
    percentiles = tuple(map(float, range(101)))
    return CheckpointConfig(config, 4, 100, dataclasses.replace(DATASET, return_percentiles=percentiles, **dataset))


def changes(plan: ActingPlan, variant: ActingVariant) -> dict[str, object]:
    """Return the settings, flattened, in which a variant differs from the default."""

    def flat(each: ActingVariant) -> dict[str, object]:
        target = {"multiple": each.return_multiple, "percentile": each.return_percentile}
        return {**dataclasses.asdict(each.protocol), **dataclasses.asdict(each.sampling), **target}

    default = flat(plan.variants[0])
    return {name: value for name, value in flat(variant).items() if value != default[name]}


ALL_SWITCHES = {
    "sticky-actions": {"sticky_actions": 0.0},
    "frames": {"frames": "bilinear"},
    "noop-max": {"noop_max": 29},
    "second-reset": {"second_reset": True},
    "window-timestep": {"window_timestep": "current"},
    "reward-units": {"reward_units": "raw"},
    "integer-returns": {"integer_returns": True},
    "cache": {"cache": "off"},
}


@pytest.mark.parametrize(
    ("config", "dataset", "without"),
    [
        (PAPER, {"max_return": 40.5}, {"cache"}),
        (PAPER, {}, {"cache", "integer-returns"}),  # target and rewards are integers anyway
        (FAST, {"max_return": 40.5}, {"window-timestep"}),
        (PER_STEP, {"max_return": 40.5}, {"cache", "window-timestep"}),
        (HFDecisionTransformerConfig(), {"max_return": 40.5}, {"cache", "window-timestep"}),
        (CLONING, {}, {"cache", "reward-units", "integer-returns"}),
        (PAPER, {"max_return": 40.5, "sticky_actions": 0.0}, {"cache", "sticky-actions"}),
        (PAPER, {"max_return": 40.5, "reward_clipping": False}, {"cache", "reward-units"}),
    ],
)
def test_each_switch_of_the_original_is_played_alone_unless_it_has_no_effect(
    config: MethodConfig, dataset: dict[str, Any], without: set[str]
) -> None:
    plan = plan_variants([checkpoint(config, **dataset)])
    protocol = [each for each in plan.variants if each.question == "protocol"]
    assert {each.name: changes(plan, each) for each in protocol[:-1]} == {
        name: change for name, change in ALL_SWITCHES.items() if name not in without
    }
    left_out = [each for each in plan.left_out if each.label != "other target returns"]
    assert len(left_out) == len(without)
    original = PROTOCOLS["original"]
    if config in (PER_STEP, HFDecisionTransformerConfig()):  # which refuse the timestep of the newest step
        original = dataclasses.replace(original, window_timestep="first")
    assert protocol[-1].protocol == original
    default = plan.variants[0]
    assert default.protocol.resolved(DATASET, config) == default.protocol
    sticky = dataset.get("sticky_actions", 0.25)
    assert default.protocol == EvaluationProtocol(sticky_actions=sticky, cache="on" if config is FAST else "off")
    assert default.sampling == Sampling()


def test_temperatures_and_target_returns_differ_from_the_default_in_nothing_else() -> None:
    plan = plan_variants([checkpoint(FAST)] * 2, with_protocol=False)
    assert {each.label: changes(plan, each) for each in plan.variants} == {
        "default": {},
        "temperature 0.5": {"temperature": 0.5},
        "temperature 0 (argmax)": {"temperature": 0.0},
        **{f"{multiple:g}×": {"multiple": multiple} for multiple in (0, 0.25, 0.5, 0.75, 1.5, 2, 5)},
    }
    plan = plan_variants([checkpoint(FAST)], [1.0, 2.0], [1.0, 3.0, 3.0], [50], with_protocol=False)
    assert [each.name for each in plan.variants] == [*("default", "temperature-2", "target-3x", "target-percentile-50")]
    plan = plan_variants([checkpoint(FAST, max_return=-3.0)], (), with_protocol=False)
    percentiles = [(each.return_multiple, each.return_percentile) for each in plan.variants]
    assert percentiles == [(1, None), *((None, percentile) for percentile in (0, 25, 50, 75, 90))]
    plan = plan_variants([checkpoint(CLONING)], (0.0,), with_protocol=False)
    assert [each.name for each in plan.variants] == ["default", "temperature-0"]
    assert plan.variants[0].return_multiple is None
    assert [each.label for each in plan.left_out] == ["other target returns"]


@pytest.mark.parametrize(
    ("checkpoints", "arguments", "message"),
    [
        ([checkpoint(CQLConfig())], {}, r"\(CQL\) does not sample its actions"),
        ([checkpoint(PAPER), checkpoint(FAST)], {}, "these runs differ in the config of their networks"),
        ([checkpoint(PAPER), CheckpointConfig(PAPER, 4, 100)], {}, "a model does not know the largest return"),
        ([checkpoint(PAPER, max_return=None)], {}, "a model does not know the largest return"),
        ([checkpoint(CLONING)], {"return_multiples": [2.0]}, "behavior cloning has no target return"),
        ([checkpoint(PAPER)], {"temperatures": [-1.0]}, r"`temperatures` must be 0 \(greedy\) or more, not -1"),
        ([checkpoint(PAPER)], {"return_multiples": [1e39]}, "target returns must be finite numbers"),
        ([checkpoint(PAPER)], {"return_percentiles": [101]}, "percentiles of the returns must be from 0 to 100"),
        ([checkpoint(PAPER, max_return=-1.0)], {"return_multiples": [2.0]}, "larger multiples are not larger"),
    ],
)
def test_models_that_cannot_be_compared_are_refused(
    checkpoints: list[CheckpointConfig], arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        plan_variants(checkpoints, **arguments)
