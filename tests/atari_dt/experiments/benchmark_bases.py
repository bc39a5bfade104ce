"""Settings that the runs of a benchmark's methods share."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from atari_dt.config import MethodName, ModelConfig
from atari_dt.experiments.benchmark_preset import value_training_preset
from atari_dt.experiments.run_config import RunConfig
from atari_dt.method_config import CQLConfig, QRDQNConfig, REMConfig


def bases_of(bases: Mapping[str, RunConfig]) -> dict[tuple[str, MethodName], RunConfig]:
    """Return the bases of all methods, from those of the Decision Transformer by game."""
    methods: dict[tuple[str, MethodName], RunConfig] = {}
    for game, base in bases.items():
        assert isinstance(base.model, ModelConfig)
        methods[game, "dt"] = base
        methods[game, "bc"] = dataclasses.replace(base, model=dataclasses.replace(base.model, conditioning="none"))
        for config in (QRDQNConfig(), CQLConfig(), REMConfig()):
            value_base = dataclasses.replace(base, model=config, training=value_training_preset("quick"))
            methods[game, config.method] = value_base
    return methods
