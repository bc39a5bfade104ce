"""A small Decision Transformer of Hugging Face, and the same network called directly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from atari_dt.method_config import HFDecisionTransformerConfig
from atari_dt.model.checkpoint_config import CheckpointConfig
from atari_dt.model.hf_decision_transformer import HFDecisionTransformer
from atari_dt.model.input_scaling import InputScaling
from replay_data.observation import RAM
from tests.atari_dt.models import DATASET

SMALL = HFDecisionTransformerConfig(context_length=5, num_layers=2, num_heads=2, embed_dim=16)

NUM_ACTIONS, MAX_TIMESTEP, RETURN_SCALE = 4, 8, 8.0


def small_hf_model(config: HFDecisionTransformerConfig = SMALL) -> HFDecisionTransformer:
    """Return a model in evaluation mode whose weights are large enough for its inputs to matter."""
    rng = np.random.default_rng(0)
    mean, scale = rng.uniform(0, 255, 128).astype(np.float32), rng.uniform(20, 90, 128).astype(np.float32)
    scaling = InputScaling(tuple(mean.tolist()), tuple(scale.tolist()), RETURN_SCALE)
    model = HFDecisionTransformer(CheckpointConfig(config, NUM_ACTIONS, MAX_TIMESTEP, observation=RAM, scaling=scaling))
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    model.dataset = DATASET
    return model.eval()


def load_plain(path: Path, **options: Any) -> tuple[Any, Any]:
    """Load a checkpoint with transformers alone; return the model and what transformers says about the weights."""
    from transformers import DecisionTransformerModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    untyped: Any = DecisionTransformerModel  # its annotations do not know what ``output_loading_info`` adds
    model, info = untyped.from_pretrained(path, output_loading_info=True, **options)
    return model, info


def call_plain(
    plain: Any,
    context_length: int,
    states: npt.NDArray[np.uint8],
    actions: list[int],
    returns_to_go: list[float],
    timesteps: list[int],
    **options: Any,
) -> Any:
    """Call transformers with one context as its documentation shows: zeros in front of the steps, masked.

    Args:
        plain: Model that `load_plain` returned.
        context_length: K.
        states: uint8 ``[T, 128]``.
        actions: Actions of T steps, or of the T - 1 steps before the newest one.
        returns_to_go: Returns-to-go of the T steps.
        timesteps: Timesteps of the T steps.
        options: Other arguments of the model.
    """
    scaling = plain.config.atari_dt["scaling"]
    padding = context_length - len(states)
    tensors = {
        "states": torch.zeros(1, context_length, 128),
        "actions": torch.zeros(1, context_length, NUM_ACTIONS),
        "returns_to_go": torch.zeros(1, context_length, 1),
        "timesteps": torch.zeros(1, context_length, dtype=torch.int64),
        "attention_mask": torch.zeros(1, context_length, dtype=torch.int64),
    }
    mean, scale = (np.array(scaling[name], np.float32) for name in ("mean", "scale"))
    for step, (state, return_to_go, timestep) in enumerate(zip(states, returns_to_go, timesteps, strict=True)):
        index = padding + step
        tensors["states"][0, index] = torch.from_numpy((state.astype(np.float32) - mean) / scale)
        tensors["returns_to_go"][0, index, 0] = return_to_go / scaling["returns"]
        tensors["timesteps"][0, index] = min(timestep, MAX_TIMESTEP)
        tensors["attention_mask"][0, index] = 1
        if step < len(actions):
            tensors["actions"][0, index, actions[step]] = 1
    return plain(**tensors, **options)


def random_context(length: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return states, actions, returns-to-go and timesteps of one context, some of which exceed the known timesteps."""
    rng = np.random.default_rng(seed)
    return (
        torch.from_numpy(rng.integers(0, 256, (length, 128), dtype=np.uint8)),
        torch.from_numpy(rng.integers(0, NUM_ACTIONS, length)),
        torch.from_numpy(rng.uniform(-5, 20, length).astype(np.float32)),
        torch.arange(length) + 6,
    )
