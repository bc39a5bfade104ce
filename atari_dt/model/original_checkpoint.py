"""Convert weights of the original code (github.com/kzl/decision-transformer, atari/mingpt/model_atari.py).

People save these weights in many ways: alone or beside the optimizer's state, from a wrapper such as
``DataParallel`` or ``torch.compile``, inside a larger module, with ``torch.save`` or safetensors.
`read_original_weights` finds the network wherever it is, by the name of its position embedding.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor

from atari_dt.config import Conditioning, ModelConfig
from atari_dt.model.loading import PickledObjectsError, load_tensors_file
from atari_dt.model.weights import NonFiniteWeightsError, Shapes, check_finite, check_tensor, check_weights, list_names
from replay_data import InputError

_NAMES = {
    "position_embedding": "pos_emb",
    "timestep_embedding": "global_pos_emb",
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
    "attention_norm": ("ln1",),
    "attention.qkv": ("attn.query", "attn.key", "attn.value"),
    "attention.projection": ("attn.proj",),
    "mlp_norm": ("ln2",),
    "expand": ("mlp.0",),
    "contract": ("mlp.2",),
}

_UNUSED = re.compile(r"tok_emb\.weight|ret_emb\.0\.(weight|bias)|blocks\.\d+\.attn\.mask")
"""Tensors that the original network has but never reads: an embedding of minGPT, and behavior cloning's of returns. The
mask of causal attention is a constant."""

_WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
"""Parts that ``DataParallel``, ``torch.compile``, FSDP and activation checkpointing put into names."""

_MAX_DEPTH = 4  # of dictionaries in dictionaries


@dataclass(frozen=True)
class OriginalWeights:
    """The state dict of an original network, with the names of the original code.

    Attributes:
        path: File.
        tensors: Tensors by name.
        config: Architecture, which follows from the shapes, except for two settings: the number of attention heads, and
            whether the model reads returns, because both of the original's model types have the same parameters.
        num_actions: Size of the game's action set.
        max_timestep: Largest timestep with its own embedding.
    """

    path: Path
    tensors: Mapping[str, Tensor]
    config: ModelConfig
    num_actions: int
    max_timestep: int

    def convert(self, shapes: Shapes) -> dict[str, Tensor]:
        """Return the weights with the names of `DecisionTransformer`.

        Args:
            shapes: Shape of each tensor of the `DecisionTransformer`.

        Raises:
            InputError: If a tensor is missing, unknown, or has another type or shape, or a value is not finite.
        """
        sources = {name: _original_names(name) for name in shapes}
        expected = {
            original: (1, *shape) if original.endswith("pos_emb") else (shape[0] // len(sources[name]), *shape[1:])
            for name, shape in shapes.items()
            for original in sources[name]
        }
        unused = [name for name in self.tensors if name not in expected and _UNUSED.fullmatch(name)]
        try:
            check_weights({name: value for name, value in self.tensors.items() if name not in unused}, expected)
            check_finite({name: self.tensors[name] for name in unused})
        except ValueError as error:
            raise _import_error(self.path, error) from error
        return {
            name: torch.cat([self.tensors[original].float() for original in sources[name]]).view(shape)
            for name, shape in shapes.items()
        }


def read_original_weights(path: Path, num_heads: int, conditioning: Conditioning) -> OriginalWeights:
    """Read the weights of an original network without executing code from the file.

    Args:
        path: File of ``torch.save`` or safetensors with the network's state dict, which may be inside other
            dictionaries, and whose names may have a prefix.
        num_heads: Number of attention heads; 8 in the paper.
        conditioning: ``"return"`` for ``model_type="reward_conditioned"``, ``"none"`` for ``"naive"``.

    Raises:
        InputError: If the file is missing or damaged, holds something else, or more than one network.
    """
    try:
        tensors = _find_network(load_tensors_file(path))
        num_bytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        if num_bytes > path.stat().st_size:  # tensors that share or repeat memory, as `torch.Tensor.expand` makes them
            raise ValueError(f"its tensors have {num_bytes:,} bytes, more than the file")
        _, num_positions, dim = _shape(tensors, "pos_emb", 3)
        _, num_timesteps, _ = _shape(tensors, "global_pos_emb", 3)
        num_actions, _ = _shape(tensors, "head.weight", 2)
        if num_positions % 3 != 1:
            raise ValueError(f"pos_emb has {num_positions} positions, which is not 3K + 1")
        num_layers = sum(re.fullmatch(r"blocks\.\d+\.ln1\.weight", name) is not None for name in tensors)
        if not num_layers:
            raise ValueError("it lacks blocks.0.ln1.weight")
    except FileNotFoundError:
        raise InputError(f"no checkpoint at {path}; give a file with weights of the original code") from None
    except PickledObjectsError as error:
        raise InputError(
            f"{path} cannot be imported without running code from it: {error}; where it was made, save the weights "
            'alone with torch.save(model.state_dict(), "weights.pth"), and import that file'
        ) from error
    except ValueError as error:
        raise _import_error(path, error) from error
    config = ModelConfig(num_positions // 3, num_layers, num_heads, dim, conditioning=conditioning)
    return OriginalWeights(path, tensors, config, num_actions, num_timesteps - 1)


def _find_network(content: Any) -> dict[str, Tensor]:
    """Return the state dict of the only original network in the content of a file.

    Raises:
        ValueError: If there is none, or more than one, or it has two tensors of one name, or other values than weights.
    """
    found = [
        (place + prefix, entries, prefix) for place, entries in _dictionaries(content) for prefix in _prefixes(entries)
    ]
    if not found:
        names = list_names(filter(_is_text, content)) if isinstance(content, Mapping) else ""
        raise ValueError(f"its names are {names}" if names else "it is no dictionary of tensors")
    if len(found) > 1:
        places = list_names(sorted(place.removesuffix(".") or "the outermost dictionary" for place, _, _ in found))
        raise ValueError(f"it holds several networks, in {places}, but must hold one")
    ((_, entries, prefix),) = found
    network: dict[str, Tensor] = {}
    for full_name, value in entries.items():
        name = _without_wrappers(full_name)
        if isinstance(value, Tensor) and name.startswith(prefix):
            name = name.removeprefix(prefix)
            if name in network:
                raise ValueError(f"it holds {list_names([name])} twice")
            check_tensor(value, list_names([name]))
            network[name] = value
    return network


def _dictionaries(content: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each dictionary in the content of a file once, and its place, such as ``"state_dict."``."""
    level, seen = {"": content}, {id(content)}
    for _ in range(_MAX_DEPTH):
        inner = {}
        for place, mapping in level.items():
            if not isinstance(mapping, Mapping):
                continue
            entries = {name: value for name, value in mapping.items() if _is_text(name)}
            yield place, entries
            for name, value in entries.items():
                if isinstance(value, Mapping) and id(value) not in seen:
                    seen.add(id(value))
                    inner[f"{place}{name}."] = value
        level = inner


def _is_text(name: object) -> TypeGuard[str]:
    return isinstance(name, str)


def _prefixes(entries: Mapping[str, Any]) -> set[str]:
    """Return the prefix of the names of each original network in a dictionary."""
    names = map(_without_wrappers, entries)
    return {name.removesuffix("pos_emb") for name in names if f".{name}".endswith(".pos_emb")}


def _without_wrappers(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def _shape(tensors: Mapping[str, Tensor], name: str, num_dimensions: int) -> tuple[int, ...]:
    """Return the shape of a tensor with a given number of dimensions, none of which is 0."""
    if name not in tensors:
        raise ValueError(f"it lacks {name}")
    shape = tuple(tensors[name].shape)
    if len(shape) != num_dimensions or 0 in shape:
        raise ValueError(f"{name} has shape {list(shape)}, not {num_dimensions} dimensions")
    return shape


def _original_names(name: str) -> tuple[str, ...]:
    """Return the names of the original's tensors that make up a tensor of `DecisionTransformer`."""
    block = re.fullmatch(r"transformer\.blocks\.(\d+)\.(.+)\.(weight|bias)", name)
    if block is None:
        return (_NAMES[name],)
    layer, module, parameter = block.groups()
    return tuple(f"blocks.{layer}.{original}.{parameter}" for original in _BLOCK_NAMES[module])


def _import_error(path: Path, reason: ValueError) -> InputError:
    """Return the error to raise where weights cannot be imported."""
    if isinstance(reason, NonFiniteWeightsError):
        return InputError(
            f"the weights in {path} are not finite: {reason}; import weights from before the training diverged"
        )
    return InputError(
        f"{path} is damaged or holds no state dict of the original network: {reason}; copy it again, or give a "
        "file with the state dict of one network alone"
    )
