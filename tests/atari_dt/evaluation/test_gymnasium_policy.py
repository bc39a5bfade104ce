"""Policies for Gymnasium vector environments against the evaluator's policy."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ale_py
import gymnasium
import numpy as np
import pytest
import torch
from ale_py.vector_env import AtariVectorEnv
from gymnasium import Env, Space
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.wrappers import AtariPreprocessing, TransformAction
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from torch import nn

from atari_dt.evaluation.gymnasium_policy import GymnasiumPolicy, load_policy
from atari_dt.model.q_network import QNetwork
from atari_dt.policies.decision_transformer import DecisionTransformerPolicy
from atari_dt.policies.sampling import Sampling
from replay_data import InputError
from tests.atari_dt.models import DATASET, small_model, use_fast_encoder
from tests.atari_dt.q_networks import CONFIGS, use_small_layers

NEXT_STEP, SAME_STEP = AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP
GREEDY = Sampling(temperature=0)


class StandInEnvs(VectorEnv[Any, Any, Any]):
    """Environments that know their action space, but not the meanings of the actions."""

    def __init__(self, num_envs: int, action_space: Space[Any]):
        self.num_envs, self.single_action_space = num_envs, action_space


def make_env(game: str = "Breakout", **settings: Any) -> Callable[[], Env[Any, Any]]:
    return lambda: AtariPreprocessing(gymnasium.make(f"ALE/{game}-v5", frameskip=1, **settings), noop_max=0)


@pytest.mark.parametrize("mode", [NEXT_STEP, SAME_STEP])
def test_actions_in_a_vector_environment_are_those_of_the_evaluators_policy(mode: AutoresetMode) -> None:
    """In both autoreset modes, each episode gets the actions of a policy that starts with its first observation."""
    model = use_fast_encoder(small_model())
    nn.init.normal_(model.head.weight, std=0.3)
    num_envs, num_steps = 3, 300
    envs = AtariVectorEnv(
        "breakout",
        num_envs,
        autoreset_mode=mode,
        repeat_action_probability=0.25,
        noop_max=0,
        use_fire_reset=False,
        reward_clipping=False,
    )
    policy = GymnasiumPolicy(model, 20)
    with pytest.raises(ValueError, match="call reset"):
        policy.act(np.zeros((3, 4, 84, 84), np.uint8), np.zeros(3), np.zeros(3, dtype=bool))
    observations, _ = envs.reset(seed=np.array([5, 6, 7]))
    AtariVectorEnv("pong", 1, autoreset_mode=NEXT_STEP if mode == SAME_STEP else SAME_STEP)  # changes envs.metadata
    policy.reset(envs, seed=9)
    rewards, dones = np.zeros(num_envs), np.ones(num_envs, dtype=bool)  # ignored before the first step
    starting = np.ones(num_envs, dtype=bool)
    rng = np.random.default_rng(9)
    episodes: list[tuple[int, list[Any]]] = []  # sampling seed; action, state and reward of every step
    current: list[list[Any]] = [[] for _ in range(num_envs)]
    for step in range(num_steps):
        layout = observations if step % 2 else observations.transpose(0, 2, 3, 1)
        actions = policy.act(layout, rewards, dones)
        for env_index, seed in zip(np.flatnonzero(starting), rng.integers(2**31, size=starting.sum()), strict=True):
            current[env_index] = []
            episodes.append((int(seed), current[env_index]))
        for i in range(num_envs):
            if mode == NEXT_STEP and dones[i] and not starting[i]:
                continue  # the last observation of an episode; the environment ignores the action
            current[i].append((int(actions[i]), observations[i].copy(), rewards[i]))
        dones_before = dones if step else np.zeros(num_envs, dtype=bool)
        observations, rewards, terminated, truncated, _ = envs.step(actions)
        dones = terminated | truncated
        starting = dones if mode == SAME_STEP else dones_before
    assert len(episodes) > num_envs + 2
    seeds, all_steps = zip(*episodes, strict=True)
    expected = DecisionTransformerPolicy(model, len(episodes))
    expected.start(np.arange(len(episodes)), np.full(len(episodes), 20, np.float32), np.array(seeds))
    for t in range(max(map(len, all_steps))):
        active = [i for i, steps in enumerate(all_steps) if t < len(steps)]
        actions, states, rewards = (np.stack(values) for values in zip(*(all_steps[i][t] for i in active), strict=True))
        assert np.array_equal(expected.act(np.array(active), states, rewards.astype(np.float32)), actions)


def test_loaded_policy_acts_as_the_saved_model(tmp_path: Path) -> None:
    model = small_model()
    nn.init.normal_(model.head.weight, std=1.0)
    model.save_pretrained(tmp_path / "run")
    loaded = load_policy(tmp_path / "run", return_multiple=0.5, sampling=GREEDY, device="cpu")
    assert loaded.target_return == 20
    assert loaded.dataset == model.dataset
    policy = GymnasiumPolicy(model, 20, sampling=GREEDY)
    rng = np.random.default_rng(0)
    num_envs = 40
    chosen: set[int] = set()
    for each in (loaded, policy):
        each.reset(StandInEnvs(num_envs, Discrete(4)))
    for _ in range(8):
        observations = rng.integers(0, 256, (num_envs, 4, 84, 84), dtype=np.uint8)
        arguments = observations, rng.integers(0, 3, num_envs), rng.random(num_envs) < 0.2
        actions = loaded.act(*arguments)
        assert np.array_equal(actions, policy.act(*arguments))
        assert np.array_equal(loaded.returns_to_go, policy.returns_to_go)
        chosen.update(map(int, actions))
    assert len(chosen) > 1


def test_model_without_target_returns_plays_and_refuses_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_small_layers(monkeypatch.setattr)
    model = QNetwork(dataclasses.replace(CONFIGS["qrdqn"], epsilon=0.0), 4).eval()
    model.dataset = DATASET
    model.save_pretrained(tmp_path / "run")
    policy, num_envs = load_policy(tmp_path / "run", device="cpu"), 3
    assert policy.target_return is None
    policy.reset(StandInEnvs(num_envs, Discrete(4)))
    states = np.random.default_rng(0).integers(0, 256, (num_envs, 84, 84, 4), dtype=np.uint8)
    actions = policy.act(states, np.zeros(num_envs), np.zeros(num_envs, dtype=bool))
    with torch.inference_mode():
        q_values = model(torch.from_numpy(states.transpose(0, 3, 1, 2).copy())).numpy().mean(-1)
    assert np.array_equal(actions, q_values.argmax(-1))
    for multiple, target in ((None, 0.0), (1.0, None)):
        with pytest.raises(InputError, match=r"quantile-regression DQN \(QR-DQN\) has no target return; leave"):
            load_policy(tmp_path / "run", multiple, target_return=target)
    with pytest.raises(InputError, match="behavior cloning has no target return"):
        GymnasiumPolicy(small_model("none"), 3.0)
    with pytest.raises(InputError, match="`target_return` is missing"):
        GymnasiumPolicy(small_model())


@pytest.mark.parametrize("target_return", [1e39, float("nan"), float("-inf")])
def test_target_return_beyond_single_precision_is_refused(target_return: float) -> None:
    with pytest.raises(InputError, match="target returns must be finite numbers"):
        GymnasiumPolicy(small_model(), target_return)


def test_loaded_policy_refuses_other_observations(tmp_path: Path) -> None:
    small_model().save_pretrained(tmp_path / "run")
    policy = load_policy(tmp_path / "run", target_return=3.5, device="cpu")
    assert policy.target_return == 3.5
    with pytest.raises(InputError, match="give `return_multiple` or `target_return`, not both"):
        load_policy(tmp_path / "run", 1.0, target_return=3.5)
    policy.reset(StandInEnvs(2, Discrete(4)))
    for observations in (np.zeros((2, 3, 84, 84), np.uint8), np.zeros((2, 4, 84, 84), np.float32)):
        with pytest.raises(ValueError, match=r"must be uint8 \(2, 4, 84, 84\)"):
            policy.act(observations, np.zeros(2), np.zeros(2, dtype=bool))  # type: ignore[arg-type]


gymnasium.register_envs(ale_py)

FULL_SET = "the action space of the environments is Discrete\\(18\\)"


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: AtariVectorEnv("breakout", 1, full_action_space=True), FULL_SET),
        (lambda: RecordEpisodeStatistics(AtariVectorEnv("breakout", 1, full_action_space=True)), FULL_SET),
        (lambda: SyncVectorEnv([make_env(full_action_space=True)]), FULL_SET),
        (lambda: AsyncVectorEnv([make_env(full_action_space=True)]), FULL_SET),
        (lambda: AtariVectorEnv("breakout", 1, continuous=True), "the action space of the environments is Box"),
        (lambda: StandInEnvs(1, Discrete(3)), "the action space of the environments is Discrete\\(3\\)"),
        (
            lambda: StandInEnvs(1, Discrete(4, start=1)),
            "the action space of the environments is Discrete\\(4, start=1\\)",
        ),
        (lambda: StandInEnvs(1, Box(0, 1, (4,))), "the action space of the environments is Box"),
        (lambda: AtariVectorEnv("skiing", 1), "Discrete\\(3\\)"),
        (lambda: AtariVectorEnv("assault", 1), "Discrete\\(7\\)"),
        (lambda: AtariVectorEnv("atlantis", 1), "those of the environments are NOOP FIRE RIGHTFIRE LEFTFIRE"),
        (lambda: SyncVectorEnv([make_env(), make_env("Casino")]), "those of the environments are NOOP FIRE UP DOWN"),
    ],
)
def test_environments_with_other_actions_are_refused(make: Callable[[], VectorEnv[Any, Any, Any]], reason: str) -> None:
    policy, envs = GymnasiumPolicy(small_model(), 20), make()
    with pytest.raises(InputError, match=f"trained with the.* actions NOOP FIRE RIGHT LEFT, but .*{reason}"):
        policy.reset(envs)


def test_arguments_that_are_no_vector_environments_or_their_values_are_refused() -> None:
    policy = GymnasiumPolicy(use_fast_encoder(small_model()), 20)
    for envs in (2, None, AtariVectorEnv, make_env()()):
        with pytest.raises(InputError, match="`envs` must be a Gymnasium vector environment, not of type"):
            policy.reset(envs)  # type: ignore[arg-type]
    policy.reset(StandInEnvs(2, Discrete(4)))
    observations, rewards, dones = np.zeros((2, 4, 84, 84), np.uint8), np.zeros(2), np.zeros(2, dtype=bool)
    with pytest.raises(ValueError, match=r"rewards must have one value per environment, shape \(2,\), not \(3,\)"):
        policy.act(observations, np.zeros(3), dones)
    with pytest.raises(ValueError, match=r"dones must have one value per environment, shape \(2,\), not \(2, 1\)"):
        policy.act(observations, rewards, dones[:, None])
    policy.act(observations, rewards * np.nan, dones)  # ignored before the first step
    with pytest.raises(ValueError, match="rewards must be finite"):
        policy.act(observations, rewards * np.nan, dones)


@pytest.mark.parametrize(
    "make",
    [
        lambda: AtariVectorEnv("breakout", 1),
        lambda: SyncVectorEnv([make_env()]),
        lambda: AsyncVectorEnv([make_env()]),
        lambda: SyncVectorEnv(
            [lambda: TransformAction(make_env(full_action_space=True)(), lambda a: [0, 1, 3, 4][a], Discrete(4))]
        ),
        lambda: StandInEnvs(1, Discrete(4)),
    ],
)
def test_environments_with_the_actions_of_the_data_are_accepted(make: Callable[[], VectorEnv[Any, Any, Any]]) -> None:
    policy, envs = GymnasiumPolicy(small_model(), 20), make()
    policy.reset(envs)
    assert policy.act(np.zeros((1, 4, 84, 84), np.uint8), np.zeros(1), np.zeros(1, dtype=bool)) in range(4)
    envs.close()
