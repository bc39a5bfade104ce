"""Agents that Stable-Baselines3 itself saved choose the same actions here."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import nn

from atari_dt.collection.policies.loading import load_policies
from atari_dt.environment.config import EnvironmentConfig, Frames
from atari_dt.environment.vector_env import AleVectorEnv
from atari_dt.games.catalogue import find_game
from tests.atari_dt.collection.policies.saved_agents import write_agent

PONG = find_game("Pong")
NUM_ACTIONS = 6
SMALL = {"features_extractor_kwargs": {"features_dim": 16}}


class Images(gymnasium.Env[Frames, int]):
    """Only the spaces of an Atari environment with four stacked frames, channels last."""

    observation_space = gymnasium.spaces.Box(0, 255, (84, 84, 4), np.uint8)
    action_space = gymnasium.spaces.Discrete(NUM_ACTIONS)  # type: ignore[assignment]


def play_pong() -> Frames:
    """Return 96 states of random play, the first ones with empty frames."""
    env = AleVectorEnv(PONG, 4, EnvironmentConfig())
    states = [env.reset(np.arange(4))]
    rng = np.random.default_rng(0)
    for _ in range(23):
        for _ in range(4):
            observations = env.step(rng.integers(0, NUM_ACTIONS, 4))[0]
        states.append(observations)
    return np.concatenate(states)


def spread_actions(policy: Any, states: Frames) -> None:
    """Shift the outputs of a random policy so that each is as often positive as negative."""
    network = policy.action_net if hasattr(policy, "action_net") else next(policy.children())
    *_, output_layer = (module for module in network.modules() if isinstance(module, nn.Linear))
    outputs: list[torch.Tensor] = []
    hook = output_layer.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    policy.predict(states)
    hook.remove()
    with torch.no_grad():
        output_layer.bias.sub_(outputs[0].mean(0))


def drop_copies(path: Path, out: Path) -> None:
    """Rewrite an agent of PPO as versions before 1.8 saved it, with one name of the shared features extractor."""
    with zipfile.ZipFile(path) as archive:
        data, weights = archive.read("data"), torch.load(io.BytesIO(archive.read("policy.pth")), weights_only=True)
    write_agent(out, {name: each for name, each in weights.items() if not name.startswith(("pi_", "vf_"))}, data)


def test_actions_are_those_of_stable_baselines3(tmp_path: Path) -> None:
    from sb3_contrib import QRDQN
    from stable_baselines3 import A2C, DQN, PPO

    replay = {"buffer_size": 1}
    rollout = {"n_steps": 2}
    tanh, relu = {"activation_fn": nn.Tanh}, {"activation_fn": nn.ReLU}
    agents: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {
        "dqn": (DQN, replay, SMALL),
        "dqn with hidden layers": (DQN, replay, {**SMALL, "net_arch": [12, 8]}),
        "dqn of raw pixels": (DQN, replay, {**SMALL, "normalize_images": False, "net_arch": [12], **tanh}),
        "qrdqn": (QRDQN, replay, SMALL),
        "qrdqn of few quantiles": (QRDQN, replay, {**SMALL, "n_quantiles": 7}),
        "ppo": (PPO, {**rollout, "batch_size": 2}, {}),
        "ppo with hidden layers": (PPO, {**rollout, "batch_size": 2}, {**SMALL, "net_arch": [8], **relu}),
        "a2c": (A2C, rollout, SMALL),
        "a2c of two networks": (A2C, rollout, {**SMALL, "share_features_extractor": False, "net_arch": {"pi": [8]}}),
    }
    states = play_pong()
    models = {}
    for index, (name, (algorithm, options, policy_kwargs)) in enumerate(agents.items()):
        model = algorithm("CnnPolicy", Images(), policy_kwargs=policy_kwargs, seed=index, device="cpu", **options)
        spread_actions(model.policy, states)
        model.save(tmp_path / name)
        models[name] = model
    drop_copies(tmp_path / "ppo.zip", tmp_path / "ppo before 1_8.zip")
    models["ppo before 1_8"] = models["ppo"]
    loaded = load_policies([f"{tmp_path}/{name}.zip" for name in models], PONG, NUM_ACTIONS, "cpu")
    for policy, (name, model) in zip(loaded, models.items(), strict=True):
        expected, _ = model.predict(states, deterministic=True)
        assert len(np.unique(expected)) > 2, name
        actions = np.concatenate([policy.choose_actions(states[start : start + 10]) for start in range(0, 96, 10)])
        assert actions.dtype == np.int64
        np.testing.assert_array_equal(actions, expected, err_msg=name)
        assert policy.needs_fire
