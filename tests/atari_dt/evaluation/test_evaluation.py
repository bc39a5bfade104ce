from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from ale_py.vector_env import AtariVectorEnv
from gymnasium.vector import AutoresetMode
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from atari_dt.config import ModelConfig
from atari_dt.environment.config import EnvironmentConfig
from atari_dt.environment.python_env import AleEnv
from atari_dt.environment.vector_env import AleVectorEnv
from atari_dt.evaluation.evaluator import evaluate, evaluate_policy
from atari_dt.evaluation.gymnasium_policy import load_policy
from atari_dt.evaluation.play_config import PlayConfig
from atari_dt.evaluation.policy import DecisionTransformerPolicy, RandomPolicy, Sampling
from atari_dt.evaluation.protocol import PROTOCOLS, EvaluationProtocol
from atari_dt.evaluation.target_returns import compute_target_returns
from atari_dt.games.catalogue import find_game
from atari_dt.model.dataset_info import DatasetInfo
from atari_dt.model.decision_transformer import DecisionTransformer
from replay_data import InputError, StoreWriter, TrajectoryStore
from replay_data.store_metadata import StoreSource
from replay_data.testing import write_random_store
from tests.atari_dt.environment.test_environment import play_emulator
from tests.atari_dt.models import DATASET, small_model

PROTOCOL_VARIANTS = [
    EvaluationProtocol(),
    EvaluationProtocol(reward_units="raw"),
    EvaluationProtocol(integer_returns=True),
    EvaluationProtocol(window_timestep="current"),
    PROTOCOLS["original"],
]


@pytest.mark.parametrize("conditioning", ["return", "none"])
@pytest.mark.parametrize("reward_clipping", [True, False])
@pytest.mark.parametrize("protocol", PROTOCOL_VARIANTS)
def test_the_rolling_context_equals_a_forward_pass_from_scratch(
    conditioning: Literal["return", "none"],
    reward_clipping: bool,
    protocol: EvaluationProtocol,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Three games, of which one starts a second episode, against the last K steps of each written out and encoded."""
    context_length, steps, restart_at = 5, 16, 7
    model = small_model(conditioning, context_length)
    model.dataset = dataclasses.replace(DATASET, reward_clipping=reward_clipping)
    rng = np.random.default_rng(0)
    states = rng.integers(0, 256, (steps, 3, 4, 84, 84), dtype=np.uint8)
    rewards = rng.integers(-7, 8, (steps, 3)).astype(np.float32)
    logits: list[Tensor] = []
    calls = 0
    predict, encode_states = model.predict, model.encode_states

    def count(states: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return encode_states(states)

    def record(*args: Any, **options: Any) -> Any:
        output = predict(*args, **options)
        logits.append(output.action_logits)
        return output

    monkeypatch.setattr(model, "predict", record)
    monkeypatch.setattr(model, "encode_states", count)
    for parameter in model.state_encoder.parameters():
        nn.init.normal_(parameter, std=0.03)  # with weights of 0.3 its rounding errors are as large as what is tested
    if conditioning == "return":
        nn.init.normal_(model.return_embedding.weight, std=0.03)  # far from the tanh's ends
    policy = DecisionTransformerPolicy(model, 3, protocol)
    policy.start(np.arange(3), np.array([30.5, 20, -10.5], dtype=np.float32), np.array([1, 2, 3]))
    starts, targets, chosen = [0, 0, 0], [30.5, 20.0, -10.5], []
    for t in range(steps):
        if t == restart_at:
            policy.start(np.array([1]), np.array([25.75], dtype=np.float32), np.array([9]))
            starts[1], targets[1] = t, 25.75
        playing = np.array([0, 1, 2] if t < 10 else [0, 1])  # the third game has ended
        chosen.append(policy.act(playing, states[t, playing], rewards[t, playing]))
        for game in playing:
            first = max(starts[game], t - context_length + 1)
            window = range(first, t + 1)
            clipped = reward_clipping and protocol.reward_units == "dataset"
            paid = rewards[:, game].clip(-1, 1) if clipped else rewards[:, game]
            returns = [targets[game] - sum(paid[starts[game] + 1 : n + 1]) for n in window]
            if protocol.integer_returns:
                returns = [float(int(value)) for value in returns]
            timesteps = [n - starts[game] for n in window]
            if protocol.window_timestep == "current":
                timesteps = [timesteps[-1]] * len(window)
            with torch.inference_mode():
                expected = predict(
                    encode_states(torch.from_numpy(states[list(window), game])[None]),
                    torch.tensor([[chosen[n][game] for n in window[:-1]]], dtype=torch.int64),
                    torch.tensor([returns]),
                    torch.tensor([timesteps]),
                ).action_logits[0, -1]
            assert torch.allclose(logits[-1][game, len(window) - 1], expected, atol=1e-5)
    assert calls == len(logits) == steps  # one call for all games in each step


def test_a_model_with_a_timestep_for_every_step_cannot_be_given_the_newest() -> None:
    model = DecisionTransformer(ModelConfig(5, 2, 2, 16, timestep_encoding="per_step"), 4, 8).eval()
    model.dataset = DATASET
    with pytest.raises(InputError, match="--window-timestep first"):
        DecisionTransformerPolicy(model, 1, PROTOCOLS["original"])


@given(
    st.lists(st.floats(-20, 20, width=32), min_size=1, max_size=18, unique=True),
    st.floats(0.05, 5),
    st.integers(1, 20),
)
def test_sampling_is_a_softmax_over_the_likeliest(values: list[float], temperature: float, top_k: int) -> None:
    kept = sorted(values, reverse=True)[:top_k]
    weights = [math.exp((value - kept[0]) / temperature) if value in kept else 0.0 for value in values]
    expected = np.array(weights) / sum(weights)
    logits = torch.tensor([values])
    assert np.allclose(Sampling(temperature, top_k).probabilities(logits)[0], expected, atol=1e-12)
    greedy = Sampling(temperature=0).probabilities(logits)[0]
    assert greedy[int(np.argmax(values))] == 1
    assert greedy.sum() == 1
    if top_k >= len(values):
        assert np.array_equal(
            Sampling(temperature).probabilities(logits), Sampling(temperature, top_k).probabilities(logits)
        )


@pytest.mark.parametrize(("temperature", "top_k"), [(-1, None), (math.nan, None), (math.inf, None), (1, 0)])
def test_impossible_sampling_is_refused(temperature: float, top_k: int | None) -> None:
    with pytest.raises(InputError, match="must be"):
        Sampling(temperature, top_k)


def test_actions_are_drawn_as_often_as_the_model_says() -> None:
    model = small_model()
    draws = 1000
    state = np.random.default_rng(0).integers(0, 256, (1, 4, 84, 84), dtype=np.uint8).repeat(draws, axis=0)
    policy = DecisionTransformerPolicy(model, draws)
    policy.start(np.arange(draws), np.full(draws, 30, np.float32), np.arange(draws))
    counts = np.bincount(policy.act(np.arange(draws), state, np.zeros(draws, np.float32)), minlength=4)
    with torch.inference_mode():
        tensors = torch.from_numpy(state[:1, None]), torch.zeros(1, 0, dtype=torch.int64)
        logits = model(*tensors, torch.tensor([[30.0]]), torch.zeros(1, 1, dtype=torch.int64)).action_logits[0, 0]
    expected = logits.softmax(-1).numpy()
    assert np.abs(counts / draws - expected).max() < 4 * 0.5 / draws**0.5


def test_scores_are_those_of_the_game() -> None:
    """The random player's episodes, played again one by one in Python."""
    game, config, episodes = find_game("Breakout"), EnvironmentConfig(), 5
    games = AleVectorEnv(game, 2, config)
    (result,) = evaluate_policy(RandomPolicy(2, 4), games, [0.0], episodes, True, seed=4, show_progress=False)
    for i, sequence in enumerate(np.random.SeedSequence([4, 1]).spawn(episodes)):
        emulator_seed, sampling_seed = sequence.generate_state(2)
        single = AleEnv(game, config, int(emulator_seed >> 1))
        rng = np.random.default_rng(int(sampling_seed))
        rewards, ended = [], False
        while not ended:
            reward, ended = single.step(int(rng.integers(4)))
            rewards.append(reward)
        assert result.lengths[i] == len(rewards)
        assert result.scores[i] == sum(rewards)
        assert result.returns[i] == sum(np.clip(rewards, -1, 1))


@pytest.mark.parametrize("protocol", ["dopamine", "original"])
def test_episodes_do_not_depend_on_how_many_games_run_side_by_side(protocol: Literal["dopamine", "original"]) -> None:
    model = small_model()
    nn.init.normal_(model.head.weight, std=1.0)  # so that the target return shows in the actions
    results = [
        evaluate(
            model,
            [0.0, 40.0],
            PlayConfig(PROTOCOLS[protocol], episodes=5, max_steps=160),
            num_envs=num_envs,
            show_progress=False,
        )
        for num_envs in (1, 6)
    ]
    assert len({*results[0][0].lengths, *results[0][1].lengths}) > 2
    assert len({*results[0][0].scores, *results[0][1].scores}) > 2
    pairs = zip(results[0][0].episodes, results[0][1].episodes, strict=True)
    assert any(not np.array_equal(a.actions[:50], b.actions[:50]) for a, b in pairs)  # the target return matters
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert a.target_return == b.target_return
            for name in ("scores", "returns", "lengths", "emulator_seeds"):
                assert np.array_equal(getattr(a, name), getattr(b, name))
            for one, another in zip(a.episodes, b.episodes, strict=True):
                assert np.array_equal(one.actions, another.actions)
                assert np.array_equal(one.returns_to_go, another.returns_to_go)
    assert max(result.lengths.max() for result in results[0]) <= 160


@pytest.mark.parametrize("config", [ModelConfig(1), ModelConfig(10, 3), ModelConfig(30)], ids=["K1", "K10", "K30"])
def test_logits_are_the_same_bits_for_any_number_of_games(config: ModelConfig) -> None:
    torch.manual_seed(1)
    model = DecisionTransformer(config, 4, 100).eval()
    model.dataset = DATASET
    rng = np.random.default_rng(0)
    states = rng.integers(0, 256, (3, 33, 4, 84, 84), dtype=np.uint8)
    seen: dict[int, Any] = {}
    for games in (1, 2, 3, 5, 10, 11, 16, 33):
        everywhere, rewards = np.arange(games), np.zeros(games, np.float32)
        policy = DecisionTransformerPolicy(model, games)
        policy.start(everywhere, np.full(games, 30, np.float32), everywhere)
        for state in states:
            policy.act(everywhere, state[:games], rewards)
        with torch.inference_mode():
            newest = torch.full((games,), min(3, config.context_length) - 1)
            seen[games] = policy._predict(torch.arange(games), newest)[0].numpy()
    for games, logits in seen.items():
        assert np.array_equal(logits, seen[33][:games]), games


class Watched(RandomPolicy):
    """A random player that keeps what it is shown."""

    def __init__(self, num_envs: int, num_actions: int):
        super().__init__(num_envs, num_actions)
        self.seen: list[list[Any]] = []
        self._playing: list[list[Any]] = [[] for _ in range(num_envs)]

    def start(self, indices: Any, compute_target_returns: Any, seeds: Any) -> None:
        super().start(indices, compute_target_returns, seeds)
        for game in indices:
            self.seen.append([])
            self._playing[game] = self.seen[-1]

    def act(self, indices: Any, states: Any, rewards: Any) -> Any:
        for game, state in zip(indices, states, strict=True):
            self._playing[game].append(state.copy())
        return super().act(indices, states, rewards)


@pytest.mark.parametrize("name", ["Breakout", "Pong", "Seaquest"])
def test_what_the_policy_sees_is_what_the_emulator_shows(name: str) -> None:
    """At least 1,000 steps, with the ends and beginnings of episodes, against ALE and OpenCV used directly."""
    game, episodes = find_game(name), 9 if name == "Breakout" else 3
    games = AleVectorEnv(game, 3, EnvironmentConfig())
    policy = Watched(3, len(games.action_meanings))
    (result,) = evaluate_policy(policy, games, [0.0], episodes, True, seed=4, show_progress=False)
    assert result.lengths.sum() >= 1000
    first_states = [seen[0][3].tobytes() for seen in policy.seen]
    assert len(policy.seen) == episodes
    matched = 0
    for i in range(episodes):
        actions = result.episodes[i].actions.astype(np.int64)
        frames, rewards, over = play_emulator(game.rom, actions, int(result.emulator_seeds[i]))
        assert over
        assert sum(rewards) == result.scores[i]
        padded = np.stack([np.zeros((84, 84), np.uint8)] * 3 + frames[: len(actions)])
        stacks = np.lib.stride_tricks.sliding_window_view(padded, 4, axis=0).transpose(0, 3, 1, 2)
        assert frames[0].tobytes() in first_states
        matched += any(len(seen) == len(stacks) and np.array_equal(np.stack(seen), stacks) for seen in policy.seen)
    assert matched == episodes


@pytest.mark.parametrize("protocol", ["dopamine", "original"])
def test_the_return_to_go_falls_by_the_rewards_that_the_protocol_says(
    protocol: Literal["dopamine", "original"], tmp_path: Path
) -> None:
    """Qbert pays 25 and more at a time; the data has clipped rewards."""
    game = find_game("Qbert")
    meanings = ["NOOP", "FIRE", "UP", "RIGHT", "LEFT", "DOWN"]
    with StoreWriter(
        tmp_path / "store",
        game="Qbert",
        action_meanings=meanings,
        reward_clipping=True,
        sticky_actions=0.25,
        source=StoreSource("test"),
    ) as writer:
        raw = np.array([0, 25, 0, 500], np.float32)
        writer.append(np.zeros((4, 84, 84), np.uint8), np.arange(4), raw.clip(-1, 1), raw, terminated=True)
    model = DecisionTransformer(ModelConfig(5, 1, 2, 16), 6, 100).eval()
    model.dataset = DatasetInfo.from_store(TrajectoryStore.open(tmp_path / "store"))
    assert compute_target_returns(model.dataset, [1]) == [2]
    chosen = PROTOCOLS[protocol]
    (result,) = evaluate(model, [7.0], PlayConfig(chosen, episodes=3, max_steps=500), show_progress=False)
    config = chosen.environment(model.dataset, 500)
    assert result.scores.sum() >= 100
    for i, episode in enumerate(result.episodes):
        emulator = AleEnv(game, config, int(result.emulator_seeds[i]))
        if config.second_reset:
            emulator.reset()
        rewards = [emulator.step(int(action))[0] for action in episode.actions]
        assert emulator.done
        paid = np.array(rewards if protocol == "original" else np.clip(rewards, -1, 1))
        assert np.array_equal(episode.returns_to_go, 7 - np.concatenate([[0], paid.cumsum()[:-1]]))
        assert result.scores[i] == sum(rewards)
        assert result.returns[i] == sum(np.clip(rewards, -1, 1))


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_a_loaded_policy_plays_any_vector_environment(mode: AutoresetMode, tmp_path: Path) -> None:
    """Whenever the environment shows an episode's first observation, the actions are those of the evaluator."""
    model = small_model()
    nn.init.normal_(model.head.weight, std=1.0)
    model.save_pretrained(tmp_path / "run")
    num_envs, steps = 3, 300
    envs = AtariVectorEnv(
        "breakout",
        num_envs,
        autoreset_mode=mode,
        repeat_action_probability=0.25,
        noop_max=0,
        use_fire_reset=False,
        reward_clipping=False,
    )
    policy = load_policy(tmp_path / "run", return_multiple=0.5, sampling=Sampling(temperature=0), device="cpu")
    assert policy.target_return == 20
    with pytest.raises(ValueError, match="call reset"):
        policy.act(np.zeros((3, 4, 84, 84), np.uint8), np.zeros(3), np.zeros(3, dtype=bool))
    observations, _ = envs.reset(seed=np.array([5, 6, 7]))
    policy.reset(num_envs, autoreset_mode=mode)
    rewards, dones = np.zeros(num_envs), np.ones(num_envs, dtype=bool)  # means nothing before the first step
    played: list[list[list[int]]] = [[[]] for _ in range(num_envs)]
    shown: list[list[list[Any]]] = [[[]] for _ in range(num_envs)]
    before = np.zeros(num_envs, dtype=bool)
    for step in range(steps):
        layout = observations if step % 2 else observations.transpose(0, 2, 3, 1)
        actions = policy.act(layout, rewards, dones)
        for i in range(num_envs):
            ends = before[i] if mode == AutoresetMode.NEXT_STEP else dones[i] and step
            if ends:
                played[i].append([])
                shown[i].append([])
            if mode == AutoresetMode.NEXT_STEP and dones[i] and step:
                continue  # the episode's last observation; what is chosen is not played
            played[i][-1].append(int(actions[i]))
            shown[i][-1].append((observations[i].copy(), rewards[i]))
        before = dones if step else np.zeros(num_envs, dtype=bool)
        observations, rewards, terminated, truncated, _ = envs.step(actions)
        dones = terminated | truncated
    assert sum(map(len, played)) > num_envs + 2
    for i in range(num_envs):
        for actions_of, shown_of in zip(played[i], shown[i], strict=True):
            alone = DecisionTransformerPolicy(model, 1, sampling=Sampling(temperature=0))
            alone.start(np.array([0]), np.array([20], np.float32), np.array([0]))
            for action, (state, reward) in zip(actions_of, shown_of, strict=True):
                assert alone.act(np.array([0]), state[None], np.array([reward], np.float32)) == [action]


def test_a_loaded_policy_refuses_other_observations(tmp_path: Path) -> None:
    small_model().save_pretrained(tmp_path / "run")
    policy = load_policy(tmp_path / "run", target_return=3.5, device="cpu")
    assert policy.target_return == 3.5
    policy.reset(2)
    for observations in (np.zeros((2, 3, 84, 84), np.uint8), np.zeros((2, 4, 84, 84), np.float32)):
        with pytest.raises(ValueError, match=r"must be uint8 \(2, 4, 84, 84\)"):
            policy.act(observations, np.zeros(2), np.zeros(2, dtype=bool))  # type: ignore[arg-type]


def test_evaluation_does_not_replay_the_seeds_of_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[int] = []
    reset = AleVectorEnv.reset

    def record(self: AleVectorEnv, seeds: Any) -> Any:
        used.extend(seeds)
        return reset(self, seeds)

    monkeypatch.setattr(AleVectorEnv, "reset", record)
    evaluate(small_model(), [1.0], PlayConfig(episodes=20, max_steps=1), num_envs=20, show_progress=False)
    data = {int(sequence.generate_state(1)[0] >> 1) for sequence in np.random.SeedSequence(0).spawn(200)}
    assert len(set(used)) == 20
    assert not data & set(map(int, used))


def test_target_returns_are_multiples_of_the_largest(store: TrajectoryStore) -> None:
    assert compute_target_returns(DATASET, [0, 0.5, 2]) == [0, 20, 80]
    assert compute_target_returns(DATASET, [2], store) == [2 * store.metadata.max_return]
    losing = DatasetInfo(**{**vars(DATASET), "max_return": -14.0})
    assert compute_target_returns(losing, [1]) == [-14]
    with pytest.raises(InputError, match="largest return is -14"):
        compute_target_returns(losing, [1, 2])
    with pytest.raises(InputError, match="does not know its dataset's largest return"):
        compute_target_returns(dataclasses.replace(DATASET, max_return=None), [1])


def test_a_store_of_another_game_is_refused(tmp_path: Any) -> None:
    pong = write_random_store(tmp_path / "pong", [4], game="Pong")
    with pytest.raises(InputError, match=r"plays Breakout, but the store at .* is of Pong"):
        compute_target_returns(DATASET, [1], pong)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_envs": 0}, "`num_envs` must be at least 1, not 0"),
        ({"targets": []}, "at least 1"),
        ({"targets": [float("nan")]}, "finite"),
    ],
)
def test_impossible_evaluations_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        evaluate(small_model(), **({"targets": [1.0]} | arguments))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"episodes": 0}, "`episodes` must be at least 1, not 0"),
        ({"seed": -1}, "`seed` must be at least 0, not -1"),
        ({"max_steps": 0}, "`max_steps` must be between 1 and 27000, not 0"),
        ({"max_steps": 27_001}, "`max_steps` must be between 1 and 27000, not 27001"),
    ],
)
def test_impossible_play_configs_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        PlayConfig(**arguments)


def test_a_model_that_does_not_fit_the_game_is_refused() -> None:
    model = small_model()
    model.dataset = None
    with pytest.raises(InputError, match="does not know the dataset"):
        evaluate(model, [1.0])
    model.dataset = DatasetInfo(**{**vars(DATASET), "action_meanings": ("NOOP", "FIRE")})
    with pytest.raises(InputError, match="trained with the actions NOOP FIRE, but Breakout has NOOP FIRE RIGHT LEFT"):
        evaluate(model, [1.0])
