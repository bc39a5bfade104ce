from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from atari_dt.config import ModelConfig
from atari_dt.environment import EnvironmentConfig, SingleGame, VectorGames
from atari_dt.evaluation import (
    DecisionTransformerPolicy,
    RandomPolicy,
    evaluate,
    evaluate_policy,
    target_returns,
)
from atari_dt.games import find_game
from atari_dt.model import DatasetInfo, DecisionTransformer
from replay_data import InputError, TrajectoryStore
from tests.conftest import write_store

DATASET = DatasetInfo("Breakout", ("NOOP", "FIRE", "RIGHT", "LEFT"), True, 0.25, 40.0, 10.0, 10, 1, 60.0, 15.0, "")


def small_model(conditioning: str = "return", context_length: int = 5) -> DecisionTransformer:
    config = ModelConfig(context_length, 2, 2, 16, conditioning=conditioning)  # type: ignore[arg-type]
    model = DecisionTransformer(config, num_actions=4, max_timestep=8)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    model.dataset = DATASET
    return model.eval()


@pytest.mark.parametrize("conditioning", ["return", "none"])
@pytest.mark.parametrize("reward_clipping", [True, False])
def test_the_rolling_context_equals_a_forward_pass_from_scratch(
    conditioning: str, reward_clipping: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three games, of which one starts a second episode, against the last K steps of each written out and encoded."""
    context_length, steps, restart_at = 5, 16, 7
    model = small_model(conditioning, context_length)
    rng = np.random.default_rng(0)
    states = rng.integers(0, 256, (steps, 3, 4, 84, 84), dtype=np.uint8)
    rewards = rng.integers(-7, 8, (steps, 3)).astype(np.float32)
    logits: list[Tensor] = []
    encoded = 0
    predict, encode_states = model.predict, model.encode_states

    def count(states: Tensor) -> Tensor:
        nonlocal encoded
        encoded += len(states)
        return encode_states(states)

    def record(*args: Any) -> Any:
        output = predict(*args)
        logits.append(output.action_logits)
        return output

    monkeypatch.setattr(model, "predict", record)
    monkeypatch.setattr(model, "encode_states", count)
    policy = DecisionTransformerPolicy(model, 3, reward_clipping)
    policy.start(np.arange(3), np.array([30, 20, 10], dtype=np.float32), np.array([1, 2, 3]))
    starts, targets, chosen = [0, 0, 0], [30.0, 20.0, 10.0], []
    for t in range(steps):
        if t == restart_at:
            policy.start(np.array([1]), np.array([25], dtype=np.float32), np.array([9]))
            starts[1], targets[1] = t, 25.0
        playing = np.array([0, 1, 2] if t < 10 else [0, 1])  # the third game has ended
        chosen.append(policy.act(playing, states[t, playing], rewards[t, playing]))
        for game in playing:
            first = max(starts[game], t - context_length + 1)
            window = range(first, t + 1)
            paid = rewards[:, game].clip(-1, 1) if reward_clipping else rewards[:, game]
            returns = [targets[game] - sum(paid[starts[game] + 1 : n + 1]) for n in window]
            with torch.inference_mode():
                expected = predict(
                    encode_states(torch.from_numpy(states[list(window), game])[None]),
                    torch.tensor([[chosen[n][game] for n in window[:-1]]], dtype=torch.int64),
                    torch.tensor([returns]),
                    torch.tensor([[n - starts[game] for n in window]]),
                ).action_logits[0, -1]
            assert torch.allclose(logits[-1][game, len(window) - 1], expected, atol=1e-5)
    assert encoded == 3 * 10 + 2 * (steps - 10)  # each state once


def test_actions_are_drawn_as_often_as_the_model_says() -> None:
    model = small_model()
    draws = 1000
    state = np.random.default_rng(0).integers(0, 256, (1, 4, 84, 84), dtype=np.uint8).repeat(draws, axis=0)
    policy = DecisionTransformerPolicy(model, draws, reward_clipping=True)
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
    games = VectorGames(game, 2, config)
    (result,) = evaluate_policy(RandomPolicy(2, 4), games, [0.0], episodes, True, seed=4, show_progress=False)
    for i, sequence in enumerate(np.random.SeedSequence([4, 1]).spawn(episodes)):
        emulator_seed, sampling_seed = sequence.generate_state(2)
        single = SingleGame(game, config, int(emulator_seed >> 1))
        rng = np.random.default_rng(int(sampling_seed))
        rewards, ended = [], False
        while not ended:
            reward, ended = single.step(int(rng.integers(4)))
            rewards.append(reward)
        assert result.lengths[i] == len(rewards)
        assert result.scores[i] == sum(rewards)
        assert result.returns[i] == sum(np.clip(rewards, -1, 1))


def test_results_do_not_depend_on_how_many_games_run_side_by_side() -> None:
    model = small_model()
    nn.init.normal_(model.head.weight, std=1.0)  # so that the target return shows in the actions
    results = [
        evaluate(model, [0.0, 40.0], episodes=4, num_envs=num_envs, max_steps=300, show_progress=False)
        for num_envs in (1, 3, 50)
    ]
    assert len({*results[0][0].lengths, *results[0][1].lengths}) > 4
    assert len({*results[0][0].scores, *results[0][1].scores}) > 2
    assert (results[0][0].lengths != results[0][1].lengths).any()  # the target return matters
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert a.target_return == b.target_return
            assert (a.scores == b.scores).all()
            assert (a.returns == b.returns).all()
            assert (a.lengths == b.lengths).all()
    assert max(result.lengths.max() for result in results[0]) <= 300


def test_evaluation_does_not_replay_the_seeds_of_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[int] = []
    reset = VectorGames.reset

    def record(self: VectorGames, seeds: Any) -> Any:
        used.extend(seeds)
        return reset(self, seeds)

    monkeypatch.setattr(VectorGames, "reset", record)
    evaluate(small_model(), [1.0], episodes=20, num_envs=20, max_steps=1, seed=0, show_progress=False)
    data = {int(sequence.generate_state(1)[0] >> 1) for sequence in np.random.SeedSequence(0).spawn(200)}
    assert len(set(used)) == 20
    assert not data & set(map(int, used))


def test_target_returns_are_multiples_of_the_largest(store: TrajectoryStore) -> None:
    assert target_returns(DATASET, [0, 0.5, 2]) == [0, 20, 80]
    assert target_returns(DATASET, [2], store) == [2 * store.metadata["max_return"]]
    losing = DatasetInfo(**{**vars(DATASET), "max_return": -14.0})
    assert target_returns(losing, [1]) == [-14]
    with pytest.raises(InputError, match="largest return is -14"):
        target_returns(losing, [1, 2])


def test_a_store_of_another_game_is_refused(tmp_path: Any) -> None:
    pong = write_store(tmp_path / "pong", [4], game="Pong")
    with pytest.raises(InputError, match=r"plays Breakout, but the store at .* is of Pong"):
        target_returns(DATASET, [1], pong)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"episodes": 0}, "at least 1 episode"),
        ({"num_envs": 0}, "at least 1 game"),
        ({"seed": -1}, "seed must not be negative"),
        ({"max_steps": 0}, "1 to 27000 steps"),
        ({"targets": []}, "at least 1"),
        ({"targets": [float("nan")]}, "finite"),
    ],
)
def test_impossible_evaluations_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        evaluate(small_model(), **({"targets": [1.0]} | arguments))


def test_a_model_that_does_not_fit_the_game_is_refused() -> None:
    model = small_model()
    model.dataset = None
    with pytest.raises(InputError, match="does not know the dataset"):
        evaluate(model, [1.0])
    model.dataset = DatasetInfo(**{**vars(DATASET), "action_meanings": ("NOOP", "FIRE")})
    with pytest.raises(InputError, match="trained with the actions NOOP FIRE, but Breakout has NOOP FIRE RIGHT LEFT"):
        evaluate(model, [1.0])
