"""Zip files like those of Stable-Baselines3, with a small network and without Stable-Baselines3."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

Weights = dict[str, Tensor]

CONVOLUTIONS = {"cnn.0": (32, 4, 8, 8), "cnn.2": (64, 32, 4, 4), "cnn.4": (64, 64, 3, 3)}

DATA = {"policy_class": {"__module__": "stable_baselines3.dqn.policies"}, "policy_kwargs": {}}


def network(prefix: str, layers: Mapping[str, tuple[int, ...]]) -> Weights:
    """Return a small random weight and bias for each layer, given the shapes of the weights."""
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for name, shape in layers.items():
        weights[f"{prefix}{name}.weight"] = 0.05 * torch.randn(shape, generator=generator)
        weights[f"{prefix}{name}.bias"] = torch.zeros(shape[0])
    return weights


def dqn_weights(num_actions: int = 4, hidden: tuple[int, ...] = ()) -> Weights:
    """Return the state dict of DQN's policy with four features."""
    sizes = [4, *hidden, num_actions]
    layers = {f"q_net.{2 * index}": (sizes[index + 1], sizes[index]) for index in range(len(sizes) - 1)}
    extractor = {f"features_extractor.{name}": shape for name, shape in CONVOLUTIONS.items()}
    weights = network("q_net.", {**extractor, "features_extractor.linear.0": (4, 3136), **layers})
    return weights | {name.replace("q_net.", "q_net_target.", 1): torch.zeros(1) for name in weights}


def to_bytes(content: object) -> bytes:
    """Return what ``torch.save`` writes."""
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def write_agent(
    path: Path,
    policy: object | bytes | None = None,
    data: Any = DATA,
    compression: int = zipfile.ZIP_STORED,
) -> Path:
    """Write an agent, by default of DQN for a game with four actions, and return its path.

    Args:
        path: Path of the file.
        policy: Content of ``policy.pth``: its bytes, or an object for ``torch.save``.
        data: Content of ``data``: its bytes, or a value for JSON; None for a file without it.
        compression: Method of compression.
    """
    policy = dqn_weights() if policy is None else policy
    with zipfile.ZipFile(path, "w", compression) as archive:
        if data is not None:
            archive.writestr("data", data if isinstance(data, bytes) else json.dumps(data))
        archive.writestr("policy.pth", policy if isinstance(policy, bytes) else to_bytes(policy))
        archive.writestr("_stable_baselines3_version", "2.9.2")
    return path
