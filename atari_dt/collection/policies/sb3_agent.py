"""Rebuild the network of an agent of Stable-Baselines3 from the names and shapes of its state dict."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from atari_dt.collection.policies.nature_cnn import CONVOLUTIONS, NUM_FEATURES, Layer, NatureCNNPolicy, Outputs
from atari_dt.collection.policies.policy import TrainedPolicy
from atari_dt.collection.policies.sb3_zip import PolicySettings, SavedAgent, read_zip
from atari_dt.games.catalogue import Game
from atari_dt.model.weights import NonFiniteWeightsError, check_weights, list_names
from replay_data import InputError

_MAX_NETWORK_BYTES = 128 << 20  # 19 times CnnPolicy's network

_PACKAGES = {"stable_baselines3", "sb3_contrib"}

_ACTIVATIONS: Mapping[str, type[nn.Module]] = {
    f"<class 'torch.nn.modules.activation.{activation.__name__}'>": activation for activation in (nn.ReLU, nn.Tanh)
}


@dataclass(frozen=True)
class _Algorithm:
    """How the policy of an algorithm names its tensors, and what its outputs mean.

    Attributes:
        outputs: What the outputs are.
        extractor: Prefix of the layers from pixels to features.
        hidden: Prefix of the layers after them, which have even indices.
        output_layer: Name of the output layer; empty if it is the last layer of ``hidden``.
        unused: Prefixes of tensors that do not choose actions.
        activation: Default activation of hidden layers.
    """

    outputs: Outputs
    extractor: str
    hidden: str
    output_layer: str
    unused: tuple[str, ...]
    activation: type[nn.Module]


_DQN = _Algorithm("values", "q_net.features_extractor", "q_net.q_net", "", ("q_net_target.",), nn.ReLU)
_QR_DQN = _Algorithm(
    "quantiles",
    "quantile_net.features_extractor",
    "quantile_net.quantile_net",
    "",
    ("quantile_net_target.",),
    nn.ReLU,
)
_ACTOR_CRITIC = _Algorithm(  # PPO and A2C
    "logits",
    "pi_features_extractor",
    "mlp_extractor.policy_net",
    "action_net",
    ("features_extractor.", "vf_features_extractor.", "mlp_extractor.value_net.", "value_net."),
    nn.Tanh,
)
_OLD_ACTOR_CRITIC = replace(_ACTOR_CRITIC, extractor="features_extractor", unused=_ACTOR_CRITIC.unused[1:])
"""Before version 1.8, when the policy and the value network always shared their features."""


class _UnsuitableAgentError(ValueError):
    """The file is intact, but its agent cannot be played here."""


def read_agent(path: Path, name: str, game: Game, num_actions: int, device: torch.device) -> TrainedPolicy:
    """Return the policy of an agent that Stable-Baselines3 saved.

    A file without ``data`` is read with the default settings of ``CnnPolicy``.

    Args:
        path: File of `BaseAlgorithm.save`.
        name: The path, or a repository, for error messages. Recordings have the file's name, or the repository.
        game: The game that the agent shall play.
        num_actions: Size of the game's minimal action set.
        device: Device of the network.

    Raises:
        InputError: If the file is missing or damaged, or its agent is of another algorithm, action set or observation.
    """
    is_cached = path != Path(name)  # by huggingface_hub, whose file names are links
    try:
        agent = read_zip(path)
        policy = _build_policy(agent, num_actions, device)
    except FileNotFoundError:
        raise InputError(f"there is no file {path}; give the path of an agent of Stable-Baselines3") from None
    except _UnsuitableAgentError as error:
        raise InputError(
            f"the agent {name} cannot be played: {error}; use one that DQN, QR-DQN, PPO or A2C trained on {game.name}, "
            "with CnnPolicy, four stacked frames and the minimal action set"
        ) from error
    except ValueError as error:
        if is_cached:
            advice = f"delete {path.resolve()} to download it again"
        elif path.suffix == ".zip":
            advice = "copy it again"
        else:
            advice = (
                "give a zip file that Stable-Baselines3's model.save wrote; for a function of yours, set `agent` to "
                "its name, such as my_agent:load"
            )
        raise InputError(f"the agent {name} cannot be read: {error}; {advice}") from error
    recorded_name = name if is_cached else path.name  # a recording is shared, so it names no directories
    return TrainedPolicy(recorded_name, agent.digest, needs_fire=True, choose_actions=policy)


def _build_policy(agent: SavedAgent, num_actions: int, device: torch.device) -> NatureCNNPolicy:
    """Return the policy with the weights of an agent.

    Raises:
        _UnsuitableAgentError: If it is of another algorithm, action set or observation.
        NonFiniteWeightsError: If a weight is NaN or infinite.
    """
    settings = agent.settings or PolicySettings()
    if settings.policy_module.partition(".")[0] not in _PACKAGES:
        raise _UnsuitableAgentError("the class of its policy is not part of Stable-Baselines3 or sb3-contrib")
    if settings.features_extractor != PolicySettings.features_extractor:
        raise _UnsuitableAgentError("it reads pixels with another network than NatureCNN")
    algorithm = _find_algorithm(agent.weights)
    layers = _find_layers(agent.weights, algorithm)
    num_outputs = len(layers[-1][1]) / (settings.num_quantiles if algorithm.outputs == "quantiles" else 1)
    if num_outputs != num_actions:
        raise _UnsuitableAgentError(f"it chooses among {num_outputs:g} actions, but the game has {num_actions}")
    activation = algorithm.activation
    if len(layers) > len(CONVOLUTIONS) + 2:
        if agent.settings is None:
            raise _UnsuitableAgentError("it has hidden layers, but no data that names their activation")
        if settings.activation and settings.activation not in _ACTIVATIONS:
            raise _UnsuitableAgentError("the activation of its hidden layers is neither ReLU nor Tanh")
        activation = _ACTIVATIONS.get(settings.activation, activation)
    return NatureCNNPolicy(layers, activation, algorithm.outputs, num_actions, settings.normalize_images, device)


def _find_algorithm(weights: Iterable[str]) -> _Algorithm:
    """Return the algorithm whose policy for images has tensors of these names.

    Raises:
        _UnsuitableAgentError: If there is none.
    """
    names = sorted(weights)
    if any(name.startswith("lstm_actor.") for name in names):
        raise _UnsuitableAgentError("it has an LSTM (RecurrentPPO)")
    for algorithm in (_DQN, _QR_DQN, _ACTOR_CRITIC, _OLD_ACTOR_CRITIC):
        if any(name.startswith(f"{algorithm.extractor}.cnn.") for name in names):
            return algorithm
    raise _UnsuitableAgentError(f"its tensors are those of another algorithm or policy ({list_names(names)})")


def _find_layers(weights: Mapping[str, Tensor], algorithm: _Algorithm) -> list[Layer]:
    """Return the layers that choose actions, from the pixels to the outputs.

    Raises:
        _UnsuitableAgentError: If they are not those of ``CnnPolicy`` for four frames of 84×84 pixels.
        NonFiniteWeightsError: If a weight is NaN or infinite.
    """
    acting = {name: tensor for name, tensor in weights.items() if not name.startswith(algorithm.unused)}
    num_hidden = sum(re.fullmatch(rf"{re.escape(algorithm.hidden)}\.\d+\.weight", name) is not None for name in acting)
    names = [f"{algorithm.extractor}.{layer}" for layer in ("cnn.0", "cnn.2", "cnn.4", "linear.0")]
    names += [f"{algorithm.hidden}.{2 * index}" for index in range(num_hidden)]
    names += [algorithm.output_layer] if algorithm.output_layer else []
    found = [tuple(acting[f"{name}.weight"].shape) if f"{name}.weight" in acting else () for name in names]
    if len(found[0]) == 4 and found[0][1] != CONVOLUTIONS[0][1]:
        raise _UnsuitableAgentError(f"its images have {found[0][1]:,} channel(s), not 4")
    if len(found[3]) == 2 and found[3][1] != NUM_FEATURES:
        raise _UnsuitableAgentError("it reads images of another size than 84×84 pixels")
    sizes = [NUM_FEATURES, *(shape[0] if shape else 0 for shape in found[3:])]
    expected = [*CONVOLUTIONS, *zip(sizes[1:], sizes[:-1], strict=True)]
    num_bytes = sum(4 * math.prod(shape) for shape in expected)
    if num_bytes > _MAX_NETWORK_BYTES:  # tensors can repeat a few values, as `torch.Tensor.expand` makes them
        raise _UnsuitableAgentError(f"its network has {num_bytes:,} bytes")
    try:
        check_weights(
            acting,
            {f"{name}.weight": shape for name, shape in zip(names, expected, strict=True)}
            | {f"{name}.bias": shape[:1] for name, shape in zip(names, expected, strict=True)},
        )
    except NonFiniteWeightsError:
        raise
    except ValueError as error:
        raise _UnsuitableAgentError(f"its network is not that of CnnPolicy: {error}") from error
    return [(acting[f"{name}.weight"].float(), acting[f"{name}.bias"].float()) for name in names]
