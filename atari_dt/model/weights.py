"""Check weights from a file before the network that they are for is built."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from atari_dt.config import ModelConfig
from atari_dt.method_config import HFDecisionTransformerConfig
from atari_dt.trajectory_config import TrajectoryTransformerConfig
from replay_data.json_fields import read_field

Shapes = Mapping[str, tuple[int, ...]]

Config = TypeVar("Config", ModelConfig, HFDecisionTransformerConfig, TrajectoryTransformerConfig)

HALF_DTYPES = (torch.bfloat16, torch.float16)
"""Dtypes of half precision that checkpoints can have."""

_NUM_NAMED = 3  # names that an error message lists


class NonFiniteWeightsError(ValueError):
    """Weights are NaN or infinite. The message names the first such tensor."""


def check_finite(tensors: Mapping[str, Tensor]) -> None:
    """Check that no value is NaN or infinite as float32, the dtype of all networks.

    Args:
        tensors: Floating-point tensors of any shape, by name.

    Raises:
        NonFiniteWeightsError: If a value is not finite.
    """
    for name, tensor in tensors.items():
        num_finite = int(tensor.float().isfinite().sum())
        if num_finite < tensor.numel():
            num_others = tensor.numel() - num_finite
            raise NonFiniteWeightsError(
                f"{num_others:,} of the {tensor.numel():,} values of {name} are NaN or infinite"
            )


def check_weights(weights: Mapping[str, Any], shapes: Shapes) -> None:
    """Check that weights are finite floating-point tensors with the names and shapes of a network's state dict.

    Args:
        weights: Tensors by name. Values of another type are refused.
        shapes: Shape of each tensor of the network.

    Raises:
        ValueError: If a tensor is missing, unknown, or has another type or shape.
        NonFiniteWeightsError: If a value is not finite.
    """
    missing = [name for name in shapes if name not in weights]
    unknown = [name for name in weights if name not in shapes]
    if missing or unknown:
        parts = [f"{verb} {list_names(names)}" for verb, names in (("lacks", missing), ("also has", unknown)) if names]
        raise ValueError(f"it {' and '.join(parts)}")
    for name, shape in shapes.items():
        check_tensor(weights[name], name)
        if weights[name].shape != shape:
            raise ValueError(f"{name} has shape {list(weights[name].shape)}, not {list(shape)}")
    check_finite(weights)


def check_tensor(value: Any, name: str) -> None:
    """Check that a value from a file is a dense tensor of floating-point numbers.

    Raises:
        ValueError: If it is something else.
    """
    if not isinstance(value, Tensor):
        raise ValueError(f"{name} is of type {type(value).__name__}, not a tensor")
    if value.layout != torch.strided or value.is_meta:
        raise ValueError(f"{name} is not a dense tensor")
    if not value.is_floating_point():
        raise ValueError(f"{name} has dtype {str(value.dtype).removeprefix('torch.')}, not a floating-point type")


def round_matrices(
    weights: Mapping[str, Tensor], parameters: Iterable[Tensor], dtype: torch.dtype
) -> dict[str, Tensor]:
    """Return weights of which the parameters with two or more dimensions are rounded to a dtype.

    These are the matrices of linear layers, convolutions and embeddings, nearly all of a network's weights. Biases and
    layer norms, which are small, and buffers, which were computed from data, keep their dtype.

    Args:
        weights: Weights of a network by name, such as its state dict.
        parameters: Parameters of the network, on the same device, which share their memory with the weights.
        dtype: Dtype to round to.

    Raises:
        NonFiniteWeightsError: If a value is too large for the dtype.
    """
    matrices = {parameter.data_ptr() for parameter in parameters if parameter.ndim >= 2}
    rounded = {name: tensor.to(dtype) if tensor.data_ptr() in matrices else tensor for name, tensor in weights.items()}
    check_finite(rounded)
    return rounded


def stored_dtype(weights: Mapping[str, Tensor]) -> torch.dtype:
    """Return the dtype of half precision that the weights of a file have, beside float32, or float32 if none has it."""
    others = {tensor.dtype for tensor in weights.values()} - {torch.float32}
    return others.pop() if len(others) == 1 and others <= set(HALF_DTYPES) else torch.float32


def load_optimizer(optimizer: torch.optim.Optimizer, state_dict: Any) -> None:
    """Load the moment estimates and the learning rate of Adam or AdamW; the other settings are those of the config.

    Args:
        optimizer: Optimizer of the network.
        state_dict: Its state dict from a file.

    Raises:
        ValueError, KeyError, TypeError, AttributeError, RuntimeError: If it is the state of another network or
            optimizer.
        NonFiniteWeightsError: If a value is not finite.
    """
    settings = [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
    optimizer.load_state_dict(state_dict)
    for group, own in zip(optimizer.param_groups, settings, strict=True):
        parameters, learning_rate = group["params"], read_field(group, "lr", float)
        group.clear()
        group |= {"params": parameters, **own, "lr": learning_rate}
        if optimizer.state:  # empty before the first update
            for parameter in parameters:
                shape = tuple(parameter.shape)
                check_weights(optimizer.state[parameter], {"step": (), "exp_avg": shape, "exp_avg_sq": shape})


def list_names(names: Iterable[str]) -> str:
    """Return names for an error message: the first few, and the number of the others."""
    printable = ["".join(filter(str.isprintable, name[:60])) for name in names]
    others = f" and {len(printable) - _NUM_NAMED:,} more" if len(printable) > _NUM_NAMED else ""
    return ", ".join(printable[:_NUM_NAMED]) + others


def network_shapes(
    build: Callable[[Config], nn.Module], config: Config, num_tensors: int, blocks: str = "blocks."
) -> Shapes:
    """Return the shape of each tensor of a network's state dict, without allocating them.

    Only a network of one block is built, on the meta device, because all blocks have the same shapes. PyTorch's random
    generator is not used.

    Args:
        build: Function from a config to a network.
        config: Config of the network, whose sizes may be absurd.
        num_tensors: Number of tensors of the weights at hand; a network with many times more is refused.
        blocks: Part of the names of the tensors of a block, in front of its index.

    Raises:
        ValueError: If the network does not fit such weights, or its sizes are impossible.
    """
    one_block = build_on_meta(lambda: build(dataclasses.replace(config, num_layers=1)))
    if config.num_layers > len(one_block) + num_tensors:
        raise ValueError(f"the network has {config.num_layers:,} layers, but there are only {num_tensors:,} tensors")
    first_block = f"{blocks}0."
    return {
        name.replace(first_block, f"{blocks}{layer}.", 1): shape
        for layer in range(config.num_layers)
        for name, shape in one_block.items()
        if layer == 0 or first_block in name
    }


def build_on_meta(build: Callable[[], nn.Module]) -> Shapes:
    """Return the shape of each tensor of a network's state dict; the network is built on the meta device.

    Raises:
        ValueError: If its sizes are impossible.
    """
    try:
        with torch.device("meta"), _NoInitialization():
            network = build()
    except (RuntimeError, TypeError, OverflowError) as error:
        raise ValueError("a network of these sizes is impossible") from error
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


class _NoInitialization(TorchFunctionMode):
    """Skip drawing weights from a normal distribution: its first use on the meta device takes a second of imports."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (nn.init.normal_, Tensor.normal_):
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)
