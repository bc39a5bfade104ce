"""The learning player against plain convolutions, returns written out, PyTorch's RAdam and the emulator itself."""

from __future__ import annotations

import dataclasses
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from einops import rearrange
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from atari_dt.collection import pqn as module
from atari_dt.collection.pqn import PQNPlayer, lambda_returns, rectification
from atari_dt.collection.q_network import QNetwork
from atari_dt.collection.rollout import Rollout
from atari_dt.config import PQNConfig
from atari_dt.environment.config import EnvironmentConfig
from atari_dt.environment.python_env import AleEnv
from atari_dt.games.catalogue import find_game
from replay_data import InputError

SMALL = PQNConfig(
    num_envs=2, steps_per_update=32, minibatch_size=32, epochs=1, precision="fp32", device="cpu", compile="off"
)


def test_the_network_is_that_of_mnih_et_al_with_layer_normalization() -> None:
    """The same in plain form: 8×8 with stride 4, 4×4 with stride 2, 3×3; normalized over all features; 512 units."""
    network = QNetwork(6)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1)
    states = torch.randint(256, (5, 4, 84, 84), dtype=torch.uint8)

    def normalized(x: torch.Tensor, layer: nn.LayerNorm) -> torch.Tensor:
        weight, bias = (
            rearrange(p, "(y x c) -> c y x", y=x.shape[2], x=x.shape[3]) for p in (layer.weight, layer.bias)
        )
        mean, variance = x.mean((1, 2, 3), keepdim=True), x.var((1, 2, 3), keepdim=True, unbiased=False)
        return F.relu((x - mean) / (variance + 1e-5).sqrt() * weight + bias)

    weight1 = rearrange(network.conv1.weight, "o (f dy dx) ky kx -> o f (ky dy) (kx dx)", dy=4, dx=4)
    weight2 = rearrange(network.conv2.weight, "o (dy dx c) ky kx -> o c (ky dy) (kx dx)", dy=2, dx=2)
    x = normalized(F.conv2d(states / 255, weight1, network.conv1.bias, stride=4), network.norm1)
    x = normalized(F.conv2d(x, weight2, network.conv2.bias, stride=2), network.norm2)
    x = normalized(F.conv2d(x, network.conv3.weight, network.conv3.bias), network.norm3)
    x = network.linear(rearrange(x, "n c y x -> n (y x c)"))
    expected = network.values(F.relu(network.norm4(x)))
    torch.testing.assert_close(network(QNetwork.blocks(states)), expected, rtol=1e-4, atol=1e-4)
    network._dtype = torch.bfloat16
    torch.testing.assert_close(network(QNetwork.blocks(states)), expected, rtol=0.1, atol=0.1)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 9), st.floats(0, 1), st.floats(0, 1), st.integers(0, 2**32))
def test_returns_are_the_mixture_of_all_n_step_returns(steps: int, discount: float, decay: float, seed: int) -> None:
    """G = (1 - λ) Σ λ^(n-1) G^(n), the last n with all the weight that is left; written out from the definition."""
    rng = np.random.default_rng(seed)
    rewards, values = rng.normal(size=steps), rng.normal(size=steps + 1)
    cut = rng.random(steps) < 0.2
    terminal = (rng.random(steps) < 0.2) & ~cut
    expected = []
    for t in range(steps):
        n_step, total = [], 0.0
        for n in range(steps - t + 1):  # G^(n): n rewards, then the value of the state
            if n:
                total += discount ** (n - 1) * rewards[t + n - 1]
            n_step.append(total + discount**n * values[t + n])
            if n and terminal[t + n - 1]:  # nothing follows
                n_step[-1] = total
                break
            if t + n < steps and cut[t + n]:  # what follows is not known
                break
        if len(n_step) == 1:  # the step was cut off: nothing but its own value is known
            expected.append(n_step[0])
            continue
        n_step = n_step[1:]
        weights = [(1 - decay) * decay**n for n in range(len(n_step) - 1)]
        weights.append(1 - sum(weights))
        expected.append(sum(w * g for w, g in zip(weights, n_step, strict=True)))
    r, v, ends, cuts = (torch.from_numpy(array)[:, None] for array in (rewards, values, terminal, cut))
    found = lambda_returns(r, v, ends, cuts, discount, decay)
    torch.testing.assert_close(found, torch.tensor(expected).double()[:, None], rtol=1e-9, atol=1e-9)


def test_steps_are_those_of_radam() -> None:
    torch.manual_seed(1)
    ours, theirs = nn.Parameter(torch.zeros(50)), nn.Parameter(torch.zeros(50))
    adam = torch.optim.Adam([ours], lr=1.0, fused=True)
    radam = torch.optim.RAdam([theirs], lr=1e-2)
    for step in range(1, 400):
        before = ours.detach().clone(), theirs.detach().clone()
        ours.grad = torch.randn(50) + 1
        theirs.grad = ours.grad.clone()
        adam.param_groups[0]["lr"] = 1e-2 * rectification(step)
        adam.step()
        radam.step()
        if step > 5:
            torch.testing.assert_close(ours - before[0], theirs - before[1], rtol=1e-3, atol=1e-7)
        else:
            assert torch.equal(ours, before[0])


def rounds(player: PQNPlayer, number: int) -> list[Rollout]:
    return list(islice(player.play(), number))


@pytest.mark.parametrize(("name", "max_steps"), [("Breakout", 27_000), ("Seaquest", 60)])
def test_recorded_episodes_are_what_the_emulator_plays(name: str, max_steps: int) -> None:
    """Each game, played again from its seed with the recorded actions, one episode after the other."""
    game, environment = find_game(name), EnvironmentConfig.with_max_steps(max_steps)
    player = PQNPlayer(game, environment, 100_000, SMALL, seed=5)
    played = [(episode.unpack(), details) for part in rounds(player, 25) for episode, details in part.episodes]
    seeds = np.random.SeedSequence([5, 0]).generate_state(2) >> 1
    ends = [int(details["played"]) for _, details in played]
    assert ends == sorted(ends)
    for index in range(2):
        single = AleEnv(game, environment, int(seeds[index]))
        mine = [(episode, end) for (episode, _), end in zip(played, ends, strict=True) if (end - 1) % 2 == index]
        assert len(mine) >= 2
        steps = 0
        for number, (episode, end) in enumerate(mine):
            if number:
                single.reset()
            assert episode.raw_rewards is not None
            for step in range(len(episode)):
                assert not single.done
                assert (episode.frames[step] == single.frame).all()
                reward, _ = single.step(int(episode.actions[step]))
                assert episode.raw_rewards[step] == reward
            assert single.done
            assert episode.terminated == single.terminated
            assert (episode.rewards == episode.raw_rewards.clip(-1, 1)).all()
            steps += len(episode)
            assert (end - 1) // 2 + 1 == steps


def test_a_seed_gives_the_same_episodes_and_a_state_goes_on_with_new_ones() -> None:
    game, environment = find_game("Breakout"), EnvironmentConfig.with_max_steps(40)
    players = [PQNPlayer(game, environment, 2000, SMALL, seed) for seed in (1, 1, 2)]
    first, same, other = ([e for part in rounds(player, 3) for e, _ in part.episodes] for player in players)
    assert len(first) >= 2
    assert all(a.frames == b.frames and (a.actions == b.actions).all() for a, b in zip(first, same, strict=True))
    assert any((a.actions != b.actions).any() for a, b in zip(first, other, strict=True))

    state = players[0].state()
    resumed = PQNPlayer(game, environment, 2000, SMALL, seed=1)
    resumed.restore(state)
    assert resumed.state() == state
    parts = rounds(resumed, 2)
    assert parts[0].metrics["epsilon"] == pytest.approx(0.01 + 0.99 * (1 - 3 * 64 / 200))
    later = [episode for part in parts for episode in part.episodes]
    assert later
    assert all(details["played"] > 3 * 64 for _, details in later)
    assert any((a.actions != b.actions).any() for (a, _), b in zip(later, first, strict=False))
    for damaged in (b"", state[:-100], b"x" * 1000):
        with pytest.raises(InputError, match="checkpoint is damaged"):
            resumed.restore(damaged)


class ToyGames:
    """The quarter that is bright says which of four actions earns 5 points."""

    action_meanings = ("NOOP", "FIRE", "RIGHT", "LEFT")

    def __init__(self, game: Any, num_envs: int, config: Any, autoreset: bool):
        assert autoreset
        self._num_envs, self._rng, self._step = num_envs, np.random.default_rng(0), 0
        self.lives = np.full(num_envs, 3, np.int32)
        self.terminated = np.zeros(num_envs, np.bool_)

    def reset(self, seeds: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        self._right = self._rng.integers(4, size=self._num_envs)
        states = np.zeros((self._num_envs, 4, 84, 84), np.uint8)
        for game, quarter in enumerate(self._right):
            states[game, :, quarter // 2 * 42 :, quarter % 2 * 42 :][:, :42, :42] = 200
        return states

    def step(self, actions: npt.NDArray[np.int64]) -> Any:
        rewards = np.where(actions == self._right, 5, 0).astype(np.float32)
        self._step += 1
        self.terminated = np.full(self._num_envs, self._step % 30 == 0)
        self.lives = np.full(self._num_envs, 3 - self._step % 30 // 10, np.int32)
        return self.reset(np.zeros(0, np.int64)), rewards, self.terminated.copy()


def test_it_learns_which_action_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AleVectorEnv", ToyGames)
    terminal = []

    def spied(*arguments: Any) -> torch.Tensor:
        terminal.append(arguments[2].clone())
        assert arguments[0].max() <= 1
        return lambda_returns(*arguments)

    monkeypatch.setattr(module, "lambda_returns", spied)
    config = PQNConfig(num_envs=8, steps_per_update=20, minibatch_size=32, precision="fp32", device="cpu", discount=0.5)
    player = PQNPlayer(find_game("Breakout"), EnvironmentConfig(), 8 * 20 * 30, config, seed=0)
    played = rounds(player, 30)
    scores = [float(episode.raw_rewards.mean()) / 5 for part in played for episode, _ in part.episodes]
    assert np.mean(scores[:16]) < 0.5
    assert np.mean(scores[-16:]) > 0.9
    # A lost life (after steps 10 and 20 of 30) or game (after step 30) ends the return; an episode is 30 steps.
    ends = torch.cat(terminal)
    assert ends[9::10].all()
    assert ends.sum() == len(ends) // 10 * 8
    assert {len(episode) for part in played for episode, _ in part.episodes} == {30}


class CutGames(ToyGames):
    """Every 30th step is the last one before a time limit."""

    def step(self, actions: npt.NDArray[np.int64]) -> Any:
        states, rewards, over = super().step(actions)
        self.terminated = np.zeros_like(over)
        return states, rewards, over


def test_an_update_is_that_of_the_publication(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut steps teach nothing, the learning rate falls linearly, and gradients are clipped."""
    monkeypatch.setattr(module, "AleVectorEnv", CutGames)
    known, loss = [], PQNPlayer._minibatch_loss

    def spied(self: PQNPlayer, *arguments: torch.Tensor) -> torch.Tensor:
        known.append(arguments[3])
        return loss(self, *arguments)

    monkeypatch.setattr(PQNPlayer, "_minibatch_loss", spied)
    moved = []
    for clip in (10.0, 1e-12):  # far below the epsilon in Adam's denominator
        config = PQNConfig(2, 30, 2, 12, precision="fp32", device="cpu", compile="off", grad_norm_clip=clip)
        player = PQNPlayer(find_game("Breakout"), EnvironmentConfig(), 600, config, seed=0)
        before = [parameter.detach().clone() for parameter in player._model.parameters()]
        rates = [part.metrics["learning_rate"] for part in rounds(player, 4)]
        assert rates == pytest.approx([2.5e-4 * (1 - 60 * update / 600) for update in range(4)])
        pairs = zip(before, player._model.parameters(), strict=True)
        moved.append(max(float((a - b).detach().abs().max()) for a, b in pairs))
    assert moved[0] > 1e-4
    assert moved[1] < 1e-6
    assert len(known) == 2 * 4 * 2 * 5
    assert sum(int(part.sum()) for part in known) == 2 * 4 * 2 * (60 - 2)

    blocks = torch.randint(256, (3, 21, 21, 64), dtype=torch.uint8)
    arguments = blocks, torch.tensor([0, 1, 2]), torch.tensor([0.5, 1.0, -1.0]), torch.tensor([True, False, True])
    values = player._model(blocks)
    expected = 0.5 * ((values[0, 0] - 0.5) ** 2 + (values[2, 2] + 1) ** 2) / 3
    torch.testing.assert_close(loss(player, *arguments), expected)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_a_gpu_computes_compiles_as_a_whole(precision: Any) -> None:
    """No part of it falls back to Python; what a compiler then makes of it is PyTorch's business."""
    config = dataclasses.replace(SMALL, precision=precision)
    player = PQNPlayer(find_game("Breakout"), EnvironmentConfig(), 1000, config, seed=0)
    blocks = torch.randint(256, (4, 21, 21, 64), dtype=torch.uint8)
    batch = blocks, torch.tensor([0, 1, 2, 3]), torch.randn(4), torch.tensor([True, True, False, True])
    steps = torch.randn(5, 2), torch.randn(6, 2), torch.rand(5, 2) < 0.3, torch.rand(5, 2) < 0.1, 0.99, 0.65
    for function, arguments in ((player._minibatch_loss, batch), (player._model, batch[:1]), (lambda_returns, steps)):
        compiled = torch.compile(function, fullgraph=True, dynamic=False, backend="aot_eager")
        torch.testing.assert_close(compiled(*arguments), function(*arguments))


def test_numbers_that_cannot_be_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"`minibatch_size` \(100\) must divide"):
        PQNConfig(minibatch_size=100)
    for field in ({"num_envs": 0}, {"discount": 1.5}, {"learning_rate": 0.0}, {"grad_norm_clip": float("inf")}):
        with pytest.raises(InputError, match="must"):
            PQNConfig(**field)
    with pytest.raises(InputError, match="no device 'tpu'"):
        PQNPlayer(find_game("Pong"), EnvironmentConfig(), 1000, PQNConfig(num_envs=2, device="tpu"), seed=0)
    player = PQNPlayer(find_game("Pong"), EnvironmentConfig(), 1000, SMALL, seed=0)
    with torch.no_grad():
        player._model.values.weight.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="lower the learning rate"):
        rounds(player, 1)
