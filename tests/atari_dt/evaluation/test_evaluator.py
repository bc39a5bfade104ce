"""The evaluator against episodes played one by one with the emulator."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from atari_dt.config import ModelConfig
from atari_dt.environment.config import EnvironmentConfig
from atari_dt.environment.python_env import AleEnv
from atari_dt.environment.vector_env import AleVectorEnv
from atari_dt.evaluation.evaluator import evaluate, evaluate_policy
from atari_dt.evaluation.play_config import PlayConfig
from atari_dt.evaluation.target_returns import compute_target_returns
from atari_dt.games.catalogue import find_game
from atari_dt.model.dataset_info import DatasetInfo
from atari_dt.model.decision_transformer import DecisionTransformer
from atari_dt.model.q_network import QNetwork
from atari_dt.policies.epsilon_greedy import RandomPolicy
from atari_dt.policies.protocol import PROTOCOLS, ProtocolName
from replay_data import InputError, StoreWriter, TrajectoryStore
from replay_data.store_metadata import StoreSource
from tests.atari_dt.environment.test_environment import play_emulator
from tests.atari_dt.models import DATASET, small_model, use_fast_encoder
from tests.atari_dt.q_networks import CONFIGS, use_small_layers


def test_scores_and_returns_are_sums_of_the_emulators_rewards() -> None:
    """Replay the episodes of the random policy one by one in Python."""
    game, config, episodes = find_game("Breakout"), EnvironmentConfig(), 5
    env = AleVectorEnv(game, 2, config)
    (result,) = evaluate_policy(RandomPolicy(2, 4), env, [0.0], episodes, True, seed=4, show_progress=False)
    for i, sequence in enumerate(np.random.SeedSequence([4, 1]).spawn(episodes)):
        emulator_seed, sampling_seed = sequence.generate_state(2)
        single = AleEnv(game, config, int(emulator_seed >> 1))
        rng = np.random.default_rng(int(sampling_seed))
        rewards, done = [], False
        while not done:
            reward, done = single.step(int(rng.integers(4)))
            rewards.append(reward)
        assert result.lengths[i] == len(rewards)
        assert result.scores[i] == sum(rewards)
        assert result.returns[i] == sum(np.clip(rewards, -1, 1))


@pytest.mark.parametrize("protocol", ["dopamine", "original"])
def test_episodes_do_not_depend_on_the_number_of_environments(protocol: ProtocolName) -> None:
    model = use_fast_encoder(small_model())
    nn.init.normal_(model.head.weight, std=0.2)  # makes actions depend on the target return, and episodes end early
    play = PlayConfig(PROTOCOLS[protocol], episodes=5, max_steps=160, seed=5)
    alone, together = (
        evaluate(model, [0.0, 40.0], play, num_envs=num_envs, show_progress=False) for num_envs in (1, 6)
    )
    assert len({*alone[0].lengths, *alone[1].lengths}) > 2
    assert len({*alone[0].scores, *alone[1].scores}) > 2
    pairs = zip(alone[0].episodes, alone[1].episodes, strict=True)
    assert any(not np.array_equal(a.actions[:50], b.actions[:50]) for a, b in pairs)  # the target return matters
    for a, b in zip(alone, together, strict=True):
        assert a.target_return == b.target_return
        for name in ("scores", "returns", "lengths", "emulator_seeds"):
            assert np.array_equal(getattr(a, name), getattr(b, name))
        for episode_a, episode_b in zip(a.episodes, b.episodes, strict=True):
            assert np.array_equal(episode_a.actions, episode_b.actions)
            assert np.array_equal(episode_a.returns_to_go, episode_b.returns_to_go)
    assert max(result.lengths.max() for result in alone) <= 160


def test_episodes_of_a_q_network_are_those_of_one_environment_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Play them again with actions that are chosen by hand: greedy or random ones, by the episode's generator."""
    use_small_layers(monkeypatch.setattr)
    torch.manual_seed(0)
    model = QNetwork(dataclasses.replace(CONFIGS["rem"], epsilon=0.3), 4).eval()
    model.dataset = DATASET
    play, episodes = PlayConfig(episodes=3, max_steps=40, seed=2), 3
    (result,) = evaluate(model, [0.0], play, num_envs=2, show_progress=False)
    for i, sequence in enumerate(np.random.SeedSequence([2, 1]).spawn(episodes)):
        emulator_seed, sampling_seed = sequence.generate_state(2)
        env = AleVectorEnv(find_game("Breakout"), 1, play.environment(DATASET))
        rng = np.random.default_rng(sampling_seed)
        states, done = env.reset(np.array([emulator_seed >> 1])), np.array([False])
        score, actions = 0.0, []
        while not done[0]:
            with torch.inference_mode():
                means = model(torch.from_numpy(states).repeat(12, 1, 1, 1))[0].numpy().mean(-1)
            action = int(rng.integers(4) if rng.random() < 0.3 else means.argmax())
            actions.append(action)
            states, rewards, done = env.step(np.array([action]))
            score += float(rewards[0])
        assert np.array_equal(result.episodes[i].actions, actions)
        assert (result.scores[i], result.lengths[i]) == (score, len(actions))
        assert not result.episodes[i].returns_to_go.any()


class ObservedPolicy(RandomPolicy):
    """Random policy that keeps the states of every episode, in the order in which the episodes start."""

    def __init__(self, num_envs: int, num_actions: int):
        super().__init__(num_envs, num_actions)
        self.episodes: list[list[Any]] = []
        self._current_episodes: list[list[Any]] = [[] for _ in range(num_envs)]

    def start(self, env_indices: Any, target_returns: Any, seeds: Any) -> None:
        super().start(env_indices, target_returns, seeds)
        for env_index in env_indices:
            self.episodes.append([])
            self._current_episodes[env_index] = self.episodes[-1]

    def act(self, env_indices: Any, states: Any, rewards: Any) -> Any:
        for env_index, state in zip(env_indices, states, strict=True):
            self._current_episodes[env_index].append(state.copy())
        return super().act(env_indices, states, rewards)


@pytest.mark.parametrize("name", ["Breakout", "Pong", "Seaquest"])
def test_policy_sees_the_frames_of_the_emulator(name: str) -> None:
    """Compare at least 1,000 steps, across the ends and starts of episodes, with direct use of ALE and OpenCV."""
    game, episodes = find_game(name), 6 if name == "Breakout" else 3
    env = AleVectorEnv(game, 3, EnvironmentConfig())
    policy = ObservedPolicy(3, len(env.action_meanings))
    (result,) = evaluate_policy(policy, env, [0.0], episodes, True, seed=4, show_progress=False)
    assert result.lengths.sum() >= 1000
    assert len(policy.episodes) == episodes
    first_states = [states[0][3].tobytes() for states in policy.episodes]
    num_matches = 0
    for i in range(episodes):
        actions = result.episodes[i].actions.astype(np.int64)
        frames, rewards, done = play_emulator(game.rom, actions, int(result.emulator_seeds[i]))
        assert done
        assert sum(rewards) == result.scores[i]
        padded = np.stack([np.zeros((84, 84), np.uint8)] * 3 + frames[: len(actions)])
        stacks = np.lib.stride_tricks.sliding_window_view(padded, 4, axis=0).transpose(0, 3, 1, 2)
        assert frames[0].tobytes() in first_states
        num_matches += any(
            len(states) == len(stacks) and np.array_equal(np.stack(states), stacks) for states in policy.episodes
        )
    assert num_matches == episodes


@pytest.mark.parametrize("protocol", ["dopamine", "original"])
def test_return_to_go_falls_by_the_rewards_of_the_protocol(protocol: ProtocolName, tmp_path: Path) -> None:
    """Qbert's rewards are 25 or more; the data has clipped rewards."""
    game = find_game("Qbert")
    with StoreWriter(
        tmp_path / "store",
        game="Qbert",
        action_meanings=["NOOP", "FIRE", "UP", "RIGHT", "LEFT", "DOWN"],
        reward_clipping=True,
        sticky_actions=0.25,
        source=StoreSource("test"),
    ) as writer:
        raw = np.array([0, 25, 0, 500], np.float32)
        writer.append(np.zeros((4, 84, 84), np.uint8), np.arange(4), raw.clip(-1, 1), raw, terminated=True)
    model = use_fast_encoder(DecisionTransformer(ModelConfig(5, 1, 2, 16), 6, 100).eval())
    model.dataset = DatasetInfo.from_store(TrajectoryStore.open(tmp_path / "store"))
    assert compute_target_returns(model.dataset, [1]) == [2]
    play = PlayConfig(PROTOCOLS[protocol], episodes=3, max_steps=500)
    (result,) = evaluate(model, [7.0], play, show_progress=False)
    config = play.environment(model.dataset)
    assert result.scores.sum() >= 100
    for i, episode in enumerate(result.episodes):
        emulator = AleEnv(game, config, int(result.emulator_seeds[i]))
        if config.second_reset:
            emulator.reset()
        rewards = [emulator.step(int(action))[0] for action in episode.actions]
        assert emulator.done
        received = np.array(rewards if protocol == "original" else np.clip(rewards, -1, 1))
        assert np.array_equal(episode.returns_to_go, 7 - np.concatenate([[0], received.cumsum()[:-1]]))
        assert result.scores[i] == sum(rewards)
        assert result.returns[i] == sum(np.clip(rewards, -1, 1))


class OneStepEnv:
    """Environments whose episodes last one step; they keep the emulator seeds they were given."""

    def __init__(self, num_envs: int):
        self.game, self.num_envs, self.action_meanings = find_game("Breakout"), num_envs, ["NOOP"]
        self.seeds: list[int] = []
        self._states = np.zeros((num_envs, 4, 84, 84), dtype=np.uint8)

    def reset(self, seeds: Any) -> Any:
        self.seeds.extend(map(int, seeds))
        return self._states

    def restart(self, env_indices: Any, seeds: Any) -> Any:
        return self.reset(seeds)

    def step(self, actions: Any) -> Any:
        return self._states, np.zeros(self.num_envs, dtype=np.float32), np.ones(self.num_envs, dtype=bool)


@pytest.mark.parametrize("num_envs", [8, 20])
def test_emulator_seeds_are_not_those_of_collected_data(num_envs: int) -> None:
    env = OneStepEnv(num_envs)
    evaluate_policy(RandomPolicy(num_envs, 1), env, [1.0], 20, True, seed=0, show_progress=False)
    seeds_of_data = {int(sequence.generate_state(1)[0] >> 1) for sequence in np.random.SeedSequence(0).spawn(200)}
    assert len(env.seeds) == len(set(env.seeds)) == 20
    assert not seeds_of_data & set(env.seeds)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_envs": 0}, "`num_envs` must be at least 1, not 0"),
        ({"target_returns": []}, "`target_returns` must have at least 1 number"),
        ({"target_returns": [float("nan")]}, "finite"),
        ({"target_returns": [1.0, -float("inf")]}, "finite"),
        ({"target_returns": [1e39]}, "finite"),
    ],
)
def test_invalid_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        evaluate(small_model(), **({"target_returns": [1.0]} | arguments))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"episodes": 0}, "`episodes` must be at least 1, not 0"),
        ({"seed": -1}, "`seed` must be at least 0, not -1"),
        ({"max_steps": 0}, "between 1 and 27000"),
        ({"max_steps": 27_001}, "between 1 and 27000"),
    ],
)
def test_invalid_play_configs_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        PlayConfig(**arguments)


def test_model_that_does_not_fit_the_game_is_refused() -> None:
    model = small_model()
    model.dataset = None
    with pytest.raises(InputError, match="does not know the dataset"):
        evaluate(model, [1.0])
    model.dataset = DatasetInfo(**{**vars(DATASET), "action_meanings": ("NOOP", "FIRE")})
    with pytest.raises(InputError, match="trained with the actions NOOP FIRE, but Breakout has NOOP FIRE RIGHT LEFT"):
        evaluate(model, [1.0], num_envs=1)
