"""Compute the losses and gradients in ``d3rlpy_losses.json`` with d3rlpy 2.8.1.

d3rlpy pins an old Gymnasium, so it needs an environment of its own. From the root of the repository::

    python3.11 -m venv /tmp/d3rlpy
    /tmp/d3rlpy/bin/pip install d3rlpy==2.8.1
    /tmp/d3rlpy/bin/python tests/data/make_d3rlpy_losses.py

The file was made with d3rlpy 2.8.1, Gymnasium 1.0.0, PyTorch 2.13.0 and NumPy 2.4.6 on a CPU. It holds no weights and
no states: `make_weights` and `make_batch` make them from seeds, here and in the test, and the file holds their digest.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]

DISCOUNT = 0.99
ALPHA = 4.0
BATCH_SIZE = 32
NUM_UPDATES = 3
CASES = {"paper": (4, 200, 3), "small": (3, 8, 24)}
"""Number of actions, number of quantiles and first seed of each case."""


def make_weights(seed: int, num_actions: int, num_quantiles: int) -> dict[str, FloatArray]:
    """Return weights of the network of Mnih et al. 2015 with a head of quantiles, float32.

    Quantiles of an action spread over about 4, so that temporal-difference errors fall on both sides of 1.
    """
    rng = np.random.default_rng(seed)

    def uniform(*shape: int, bound: float) -> FloatArray:
        return ((rng.random(shape) * 2 - 1) * bound).astype(np.float32)

    weights = {}
    shapes = {"conv1": (32, 4, 8, 8), "conv2": (64, 32, 4, 4), "conv3": (64, 64, 3, 3), "hidden": (512, 3136)}
    for name, shape in shapes.items():
        weights[f"{name}.weight"] = uniform(*shape, bound=(6 / np.prod(shape[1:])) ** 0.5)
        weights[f"{name}.bias"] = uniform(shape[0], bound=0.05)
    of_actions = uniform(num_actions, 1, 512, bound=0.15)
    of_quantiles = uniform(num_actions, num_quantiles, 512, bound=0.05)
    weights["head.weight"] = (of_actions + of_quantiles).reshape(-1, 512)
    weights["head.bias"] = (2 + uniform(num_actions * num_quantiles, bound=2)).astype(np.float32)
    return weights


def make_batch(seed: int, num_actions: int) -> dict[str, npt.NDArray[Any]]:
    """Return transitions whose frames are 7 × 7 squares of random brightness.

    Returns:
        ``states`` and ``next_states`` uint8 ``[B, 4, 84, 84]``; ``actions`` int64, ``rewards`` (not clipped) float32
        and ``terminated`` bool ``[B]``.
    """
    rng = np.random.default_rng(seed)
    squares = rng.integers(0, 256, (BATCH_SIZE, 5, 7, 7)).astype(np.uint8)
    frames = squares.repeat(12, axis=2).repeat(12, axis=3)
    return {
        "states": frames[:, :4],
        "next_states": frames[:, 1:],
        "actions": rng.integers(0, num_actions, BATCH_SIZE),
        "rewards": np.array([-7, -1, 0, 1, 4], dtype=np.float32)[rng.integers(0, 5, BATCH_SIZE)],
        "terminated": rng.random(BATCH_SIZE) < 0.25,
    }


def digest(arrays: Iterable[npt.NDArray[Any]]) -> str:
    """Return the SHA-256 of the bytes of some arrays."""
    sha256 = hashlib.sha256()
    for array in arrays:
        sha256.update(np.ascontiguousarray(array).tobytes())
    return sha256.hexdigest()


def main() -> None:
    """Write ``d3rlpy_losses.json`` beside this file."""
    import d3rlpy  # type: ignore[import-not-found]
    import torch
    from d3rlpy.dataset import Transition, TransitionMiniBatch  # type: ignore[import-not-found]
    from d3rlpy.torch_utility import TorchMiniBatch  # type: ignore[import-not-found]

    def load(network: torch.nn.Module, weights: dict[str, FloatArray]) -> None:
        order = ["conv1", "conv2", "conv3", "hidden", "head"]
        names = [f"{layer}.{kind}" for layer in order for kind in ("weight", "bias")]
        state = network.state_dict()
        assert [tuple(each.shape) for each in state.values()] == [weights[name].shape for name in names]
        network.load_state_dict({key: torch.from_numpy(weights[name]) for key, name in zip(state, names, strict=True)})

    def measure(
        kind: str, num_quantiles: int, batch: dict[str, Any], online: dict[str, Any], target: dict[str, Any]
    ) -> dict[str, Any]:
        """Return losses and gradients of a batch, and QR-DQN's losses in a few updates on it."""
        config_type = d3rlpy.algos.DQNConfig if kind == "qrdqn" else d3rlpy.algos.DiscreteCQLConfig
        algo = config_type(
            batch_size=BATCH_SIZE,
            learning_rate=5e-5,
            optim_factory=d3rlpy.optimizers.AdamFactory(eps=3.125e-4),
            q_func_factory=d3rlpy.models.QRQFunctionFactory(n_quantiles=num_quantiles),
            observation_scaler=d3rlpy.preprocessing.PixelObservationScaler(),
            reward_scaler=d3rlpy.preprocessing.ClipRewardScaler(-1.0, 1.0),
            gamma=DISCOUNT,
            target_update_interval=2000,
            **({} if kind == "qrdqn" else {"alpha": ALPHA}),
        ).create(device=False)
        num_actions = len(online["head.bias"]) // num_quantiles
        algo.create_impl((4, 84, 84), num_actions)
        modules = algo.impl.modules
        load(modules.q_funcs[0], online)
        load(modules.targ_q_funcs[0], target)
        transitions = TransitionMiniBatch.from_transitions(
            [
                Transition(
                    observation=batch["states"][i],
                    action=batch["actions"][i : i + 1],
                    reward=batch["rewards"][i : i + 1],
                    next_observation=batch["next_states"][i],
                    next_action=batch["actions"][i : i + 1],  # not used
                    terminal=float(batch["terminated"][i]),
                    interval=1,
                    rewards_to_go=batch["rewards"][i : i + 1, None],  # not used
                )
                for i in range(BATCH_SIZE)
            ]
        )
        scalers = {"observation_scaler": algo.config.observation_scaler, "reward_scaler": algo.config.reward_scaler}
        torch_batch = TorchMiniBatch.from_batch(
            transitions, gamma=DISCOUNT, compute_returns_to_go=False, device="cpu", **scalers
        )
        losses = algo.impl.compute_grad(torch_batch)
        network = modules.q_funcs[0]
        gradients = [parameter.grad for parameter in network.parameters()]
        q_values = network(torch_batch.observations).q_value
        next_q = modules.targ_q_funcs[0](torch_batch.next_observations).q_value
        largest = next_q.topk(2).values
        best = next_q.argmax(dim=1).bincount().tolist()
        assert (largest[:, 0] - largest[:, 1]).min() > 0.01, (
            "rounding could decide which action is the best; choose another seed"
        )
        print(f"{kind}: loss {losses.loss:.4f}, Q {q_values.min():.2f} to {q_values.max():.2f}, best actions {best}")
        result: dict[str, Any] = {name: float(value) for name, value in vars(losses).items()}
        result["gradient_norm"] = float(torch.stack([each.norm() for each in gradients]).norm())
        result["head_bias_gradient"] = gradients[-1].flatten()[:: num_quantiles // 8].tolist()
        result["conv1_bias_gradient"] = gradients[1][:8].tolist()
        result["q_values"] = q_values[0].tolist()
        if kind == "qrdqn":  # further updates of CQL would be double DQN
            algo._grad_step = 1  # or the first update would be followed by a copy to the target network
            result["losses_of_updates"] = [float(algo.update(transitions)["loss"]) for _ in range(NUM_UPDATES)]
        return result

    torch.manual_seed(0)
    torch.set_num_threads(1)
    cases = {}
    for name, (num_actions, num_quantiles, seed) in CASES.items():
        batch = make_batch(seed, num_actions)
        online = make_weights(10 * seed, num_actions, num_quantiles)
        target = make_weights(10 * seed + 1, num_actions, num_quantiles)
        cases[name] = {
            "digest": digest([*batch.values(), *online.values(), *target.values()]),
            "qrdqn": measure("qrdqn", num_quantiles, batch, online, target),
            # d3rlpy's CQL is on double DQN, which equals DQN if both networks have the same weights.
            "cql": measure("cql", num_quantiles, batch, online, online),
        }
    path = Path(__file__).with_name("d3rlpy_losses.json")
    path.write_text(
        json.dumps({"d3rlpy": d3rlpy.__version__, "torch": torch.__version__, "cases": cases}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
