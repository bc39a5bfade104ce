"""Settings that the runs of a benchmark's methods share."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from atari_dt.config import MethodName
from atari_dt.experiments.benchmark_preset import value_training_preset
from atari_dt.experiments.run_config import RunConfig
from atari_dt.method_config import METHOD_NAMES, default_config


def bases_of(bases: Mapping[str, RunConfig]) -> dict[tuple[str, MethodName], RunConfig]:
    """Return the bases of all methods, from those of the Decision Transformer by game."""
    methods: dict[tuple[str, MethodName], RunConfig] = {}
    for game, base in bases.items():
        for name in METHOD_NAMES:
            model, training = default_config(name), value_training_preset("quick")
            if name == "dt":
                model, training = base.model, base.training
            if name == "bc":
                model, training = dataclasses.replace(base.model, conditioning="none"), base.training
            methods[game, name] = dataclasses.replace(base, model=model, training=training)
    return methods
