"""Convert weights of the original code (github.com/kzl/decision-transformer, atari/mingpt/model_atari.py)."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from atari_dt.config import Conditioning, ModelConfig
from atari_dt.model.loading import LOADING_ERRORS
from replay_data import InputError
from replay_data.errors import summarize_error

_NAMES = {
    "action_embedding.weight": "action_embeddings.0.weight",
    "return_embedding.weight": "ret_emb.0.weight",
    "return_embedding.bias": "ret_emb.0.bias",
    "transformer.norm.weight": "ln_f.weight",
    "transformer.norm.bias": "ln_f.bias",
    "head.weight": "head.weight",
    **{
        f"state_encoder.{layer}.{parameter}": f"state_encoder.{index}.{parameter}"
        for layer, index in {"conv1": 0, "conv2": 2, "conv3": 4, "linear": 7}.items()
        for parameter in ("weight", "bias")
    },
}
_BLOCK_NAMES = {
    "attention.projection": "attn.proj",
    "attention_norm": "ln1",
    "mlp_norm": "ln2",
    "expand": "mlp.0",
    "contract": "mlp.2",
}


def read_original_checkpoint(
    path: str | os.PathLike[str], num_heads: int, conditioning: Conditioning
) -> tuple[ModelConfig, int, int, dict[str, Tensor]]:
    """Read a ``.pth`` file with a state dict of the original network, without executing code from the file.

    The sizes follow from the shapes of the tensors, except for two settings: the number of attention heads, and whether
    the model reads returns, because both of the original's model types have the same parameters.

    Args:
        path: File written by ``torch.save(model.state_dict(), path)``, with or without ``DataParallel``.
        num_heads: Number of attention heads; 8 in the paper.
        conditioning: ``"return"`` for ``model_type="reward_conditioned"``, ``"none"`` for ``"naive"``.

    Returns:
        ``(config, num_actions, max_timestep, weights)``, with the weights named as in `DecisionTransformer`.

    Raises:
        InputError: If the file is missing or damaged, holds something else, or its shapes do not match.
    """
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        raise InputError(f"no checkpoint at {path}; give a .pth file of the original code") from None
    try:
        original: Any = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        original = {name.removeprefix("module."): tensor for name, tensor in original.items()}
        _, num_positions, dim = original["pos_emb"].shape
        num_layers = sum(name.endswith(".ln1.weight") for name in original)
        weights = {name: original[original_name] for name, original_name in _NAMES.items()}
        weights["position_embedding"] = original["pos_emb"][0]
        weights["timestep_embedding"] = original["global_pos_emb"][0]
        for layer in range(num_layers):
            source, target = f"blocks.{layer}", f"transformer.blocks.{layer}"
            for parameter in ("weight", "bias"):
                qkv = [original[f"{source}.attn.{name}.{parameter}"] for name in ("query", "key", "value")]
                weights[f"{target}.attention.qkv.{parameter}"] = torch.cat(qkv)
                for name, original_name in _BLOCK_NAMES.items():
                    weights[f"{target}.{name}.{parameter}"] = original[f"{source}.{original_name}.{parameter}"]
        if num_positions % 3 != 1:
            raise ValueError(f"pos_emb has {num_positions} positions, which is not 3K + 1")
    except LOADING_ERRORS as error:
        raise InputError(
            f"{path} is damaged or holds no state dict of the original network ({type(error).__name__}: "
            f"{summarize_error(error)}); download or copy it again"
        ) from error
    if conditioning == "none":
        weights = {name: tensor for name, tensor in weights.items() if not name.startswith("return_embedding.")}
    config = ModelConfig(num_positions // 3, num_layers, num_heads, dim, conditioning=conditioning)
    return config, len(weights["head.weight"]), len(weights["timestep_embedding"]) - 1, weights
