"""Small Q-networks and runs of the value-based methods."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial

from atari_dt.method_config import VALUE_TRAINING, CQLConfig, QRDQNConfig, REMConfig
from atari_dt.model import q_network
from atari_dt.model.nature_cnn import NatureCNN

CONFIGS: dict[str, QRDQNConfig | REMConfig] = {
    "qrdqn": QRDQNConfig(num_quantiles=6, target_update_every=3),
    "cql": CQLConfig(num_quantiles=6, target_update_every=3),
    "rem": REMConfig(num_q_heads=6, target_update_every=3),
}
"""A config of each value-based method."""

ADAM = dataclasses.replace(VALUE_TRAINING, precision="fp32", device="cpu")


def use_small_layers(setattr: Callable[[object, str, object], None] = setattr) -> None:
    """Make every Q-network of this process small, so that updates and checkpoints cost little."""
    setattr(q_network, "HIDDEN", 16)
    setattr(q_network, "NatureCNN", partial(NatureCNN, (4, 4, 4)))
