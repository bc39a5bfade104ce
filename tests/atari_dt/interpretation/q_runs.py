"""A run of a Q-network for the tests of saliency."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from atari_dt.model.q_network import QNetwork
from tests.atari_dt.models import DATASET
from tests.atari_dt.q_networks import CONFIGS, use_small_layers


def small_q_network(monkeypatch: pytest.MonkeyPatch, method: str = "cql") -> QNetwork:
    """Return a Q-network of four actions without biases, so that Q is homogeneous: twice as bright, twice the Q.

    From here on, Q-networks have small layers, so that a checkpoint of this one can be loaded.
    """
    use_small_layers(monkeypatch.setattr)
    torch.manual_seed(3)
    model = QNetwork(CONFIGS[method], num_actions=4)
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, std=0.0 if name.endswith("bias") else 0.3)
    model.dataset = DATASET
    return model.eval()


def q_run(path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Save a Q-network as a run in ``path`` and return the directory of the run."""
    small_q_network(monkeypatch).save_pretrained(path / "run" / "checkpoints" / "update-00000001")
    return path / "run"
