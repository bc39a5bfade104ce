"""Weights of the original code (github.com/kzl/decision-transformer, atari/mingpt/model_atari.py), under our names."""

from __future__ import annotations

import io
import os
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from atari_dt.config import Conditioning, ModelConfig
from replay_data import InputError

_NAMES = {
    "action_embedding.weight": "action_embeddings.0.weight",
    "return_embedding.weight": "ret_emb.0.weight",
    "return_embedding.bias": "ret_emb.0.bias",
    "transformer.norm.weight": "ln_f.weight",
    "transformer.norm.bias": "ln_f.bias",
    "head.weight": "head.weight",
    **{
        f"state_encoder.{layer}.{kind}": f"state_encoder.{index}.{kind}"
        for layer, index in {"conv1": 0, "conv2": 2, "conv3": 4, "linear": 7}.items()
        for kind in ("weight", "bias")
    },
}
LOADING_ERRORS = (  # what torch.load, and a look at another object than was expected, raise
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
)
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
    """Read a ``.pth`` file that holds the original network's state dict; nothing in it is executed.

    Its sizes are those of its tensors. Two things do not show in them: the number of attention heads, and whether the
    model read its returns (both of the original's kinds have the same parameters).

    Args:
        path: the file, as ``torch.save(model.state_dict(), path)`` made it, also of a model inside ``DataParallel``.
        num_heads: attention heads; 8 in the paper.
        conditioning: ``"return"`` for ``model_type="reward_conditioned"``, ``"none"`` for ``"naive"``.

    Returns:
        ``(config, num_actions, max_timestep, weights)``, the weights named as in `DecisionTransformer`.

    Raises:
        InputError: if the file is damaged, or holds something else, or its sizes do not fit each other.
    """
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        raise InputError(f"no checkpoint at {path}") from None
    try:
        theirs: Any = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        theirs = {name.removeprefix("module."): tensor for name, tensor in theirs.items()}
        _, positions, dim = theirs["pos_emb"].shape
        num_layers = sum(name.endswith(".ln1.weight") for name in theirs)
        weights = {name: theirs[their_name] for name, their_name in _NAMES.items()}
        weights["position_embedding"], weights["timestep_embedding"] = theirs["pos_emb"][0], theirs["global_pos_emb"][0]
        for layer in range(num_layers):
            for kind in ("weight", "bias"):
                parts = [theirs[f"blocks.{layer}.attn.{part}.{kind}"] for part in ("query", "key", "value")]
                weights[f"transformer.blocks.{layer}.attention.qkv.{kind}"] = torch.cat(parts)
                for name, their_name in _BLOCK_NAMES.items():
                    weights[f"transformer.blocks.{layer}.{name}.{kind}"] = theirs[f"blocks.{layer}.{their_name}.{kind}"]
        if positions % 3 != 1:
            raise ValueError(f"{positions} positions are not 3K + 1")
    except LOADING_ERRORS as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{path} is damaged, or holds no state dict of the original network ({type(error).__name__}: {reason})"
        ) from error
    if conditioning == "none":
        weights = {name: tensor for name, tensor in weights.items() if not name.startswith("return_embedding.")}
    config = ModelConfig(positions // 3, num_layers, num_heads, dim, conditioning=conditioning)
    return config, len(weights["head.weight"]), len(weights["timestep_embedding"]) - 1, weights
