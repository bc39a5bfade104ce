"""The PQN player against plain convolutions, returns from their definition, PyTorch's RAdam and the emulator."""

from __future__ import annotations

import dataclasses
import io
import math
from itertools import islice
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
from atari_dt.environment.config import EnvironmentConfig
from atari_dt.environment.python_env import AleEnv
from atari_dt.games.catalogue import find_game
from atari_dt.player_config import NetworkName, PQNConfig
from replay_data import InputError

SMALL = PQNConfig(
    num_envs=2, steps_per_update=32, minibatch_size=32, epochs=1, precision="fp32", device="cpu", compile="off"
)


@pytest.mark.parametrize(("name", "widths"), [("nature", (32, 64, 64, 512)), ("small", (16, 32, 32, 256))])
def test_network_is_that_of_mnih_et_al_with_layer_normalization(
    name: NetworkName, widths: tuple[int, int, int, int]
) -> None:
    """Plain convolutions, 8×8 with stride 4, 4×4 with stride 2 and 3×3, normalized over all features."""
    network = QNetwork(6, name=name)
    assert (*(len(each.weight) for each in (network.conv1, network.conv2, network.conv3, network.linear)),) == widths
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
    """G = (1 - λ) Σ λ^(n-1) G^(n); the last G^(n) gets the remaining weight."""
    rng = np.random.default_rng(seed)
    rewards, values = rng.normal(size=steps), rng.normal(size=steps + 1)
    truncated = rng.random(steps) < 0.2
    terminated = (rng.random(steps) < 0.2) & ~truncated
    expected = []
    for t in range(steps):
        n_step, total = [], 0.0
        for n in range(steps - t + 1):  # G^(n): n rewards, then the value of the state
            if n:
                total += discount ** (n - 1) * rewards[t + n - 1]
            n_step.append(total + discount**n * values[t + n])
            if n and terminated[t + n - 1]:
                n_step[-1] = total
                break
            if t + n < steps and truncated[t + n]:  # the next state belongs to another episode
                break
        if len(n_step) == 1:  # the step itself was truncated: only its own value is known
            expected.append(n_step[0])
            continue
        n_step = n_step[1:]
        weights = [(1 - decay) * decay**n for n in range(len(n_step) - 1)]
        weights.append(1 - sum(weights))
        expected.append(sum(w * g for w, g in zip(weights, n_step, strict=True)))
    r, v, ends, cuts = (torch.from_numpy(array)[:, None] for array in (rewards, values, terminated, truncated))
    found = lambda_returns(r, v, ends, cuts, discount, decay)
    torch.testing.assert_close(found, torch.tensor(expected).double()[:, None], rtol=1e-9, atol=1e-9)


def test_optimizer_steps_are_those_of_radam() -> None:
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


def play(player: PQNPlayer, num_rollouts: int) -> list[Rollout]:
    return list(islice(player.play(), num_rollouts))


@pytest.mark.parametrize(("name", "max_steps", "num_rollouts"), [("Breakout", 27_000, 20), ("Seaquest", 60, 8)])
def test_recorded_episodes_are_what_the_emulator_plays(name: str, max_steps: int, num_rollouts: int) -> None:
    """Replay each environment from its seed with the recorded actions, episode by episode."""
    game, environment = find_game(name), EnvironmentConfig.with_max_steps(max_steps)
    player = PQNPlayer(game, environment, 100_000, SMALL, seed=5)
    played = [
        (episode.unpack(), details) for rollout in play(player, num_rollouts) for episode, details in rollout.episodes
    ]
    seeds = np.random.SeedSequence([5, 0]).generate_state(2) >> 1
    ends = [int(details["played"]) for _, details in played]
    assert ends == sorted(ends)
    for env_index in range(2):
        env = AleEnv(game, environment, int(seeds[env_index]))
        own = [(episode, end) for (episode, _), end in zip(played, ends, strict=True) if (end - 1) % 2 == env_index]
        assert len(own) >= 2
        steps = 0
        for index, (episode, end) in enumerate(own):
            if index:
                env.reset()
            assert episode.raw_rewards is not None
            for step in range(len(episode)):
                assert not env.done
                assert (episode.frames[step] == env.frame).all()
                reward, _ = env.step(int(episode.actions[step]))
                assert episode.raw_rewards[step] == reward
            assert env.done
            assert episode.terminated == env.terminated
            assert (episode.rewards == episode.raw_rewards.clip(-1, 1)).all()
            steps += len(episode)
            assert (end - 1) // 2 + 1 == steps


def test_same_seed_gives_the_same_episodes_and_a_restored_player_new_ones() -> None:
    game, environment = find_game("Breakout"), EnvironmentConfig.with_max_steps(40)
    players = [PQNPlayer(game, environment, 2000, SMALL, seed) for seed in (1, 1, 2)]
    first, same, other = ([e for rollout in play(player, 3) for e, _ in rollout.episodes] for player in players)
    assert len(first) >= 2
    assert all(a.frames == b.frames and (a.actions == b.actions).all() for a, b in zip(first, same, strict=True))
    assert any((a.actions != b.actions).any() for a, b in zip(first, other, strict=True))

    state = players[0].state()
    resumed = PQNPlayer(game, environment, 2000, SMALL, seed=1)
    resumed.restore(state)
    assert resumed.state() == state
    rollouts = play(resumed, 2)
    assert rollouts[0].metrics["epsilon"] == pytest.approx(0.01 + 0.99 * (1 - 3 * 64 / 200))
    later = [finished for rollout in rollouts for finished in rollout.episodes]
    assert later
    assert all(details["played"] > 3 * 64 for _, details in later)
    assert any((a.actions != b.actions).any() for (a, _), b in zip(later, first, strict=False))
    for damaged in (b"", state[:-100], b"x" * 1000):
        with pytest.raises(InputError, match="checkpoint is damaged"):
            resumed.restore(damaged)
    for change, reason in (
        (lambda content: content["model"]["values.bias"].fill_(math.nan), "values of values.bias are NaN or infinite"),
        (lambda content: content["optimizer"]["state"][0]["exp_avg"].fill_(math.inf), "values of exp_avg are NaN"),
        (lambda content: content["model"].pop("norm4.weight"), "it lacks norm4.weight"),
        (lambda content: content.update(counts=[-1, 0, 0]), "num_played is -1"),
    ):
        content = torch.load(io.BytesIO(state), weights_only=True)
        change(content)
        changed = io.BytesIO()
        torch.save(content, changed)
        with pytest.raises(InputError, match=rf"checkpoint is damaged \(.*{reason}"):
            resumed.restore(changed.getvalue())


class ToyVectorEnv:
    """Environments in which the bright quarter of the frame shows which of four actions earns 5 points."""

    action_meanings = ("NOOP", "FIRE", "RIGHT", "LEFT")
    ram = None

    def __init__(self, game: Any, num_envs: int, config: Any, ram: bool):
        assert not ram
        self._num_envs, self._rng, self._step = num_envs, np.random.default_rng(0), 0
        self.lives = np.full(num_envs, 3, np.int32)
        self.terminated = np.zeros(num_envs, np.bool_)

    def reset(self, seeds: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        self._best_actions = self._rng.integers(4, size=self._num_envs)
        states = np.zeros((self._num_envs, 4, 84, 84), np.uint8)
        for env_index, quarter in enumerate(self._best_actions):
            states[env_index, :, quarter // 2 * 42 :, quarter % 2 * 42 :][:, :42, :42] = 200
        return states

    def step(self, actions: npt.NDArray[np.int64]) -> Any:
        rewards = np.where(actions == self._best_actions, 5, 0).astype(np.float32)
        self._step += 1
        self.terminated = np.full(self._num_envs, self._step % 30 == 0)
        self.lives = np.full(self._num_envs, 3 - self._step % 30 // 10, np.int32)
        return self.reset(np.zeros(0, np.int64)), rewards, self.terminated.copy()


def test_player_learns_the_best_actions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "make_autoreset_env", ToyVectorEnv)
    terminated = []

    def spy(*arguments: Any) -> torch.Tensor:
        terminated.append(arguments[2].clone())
        assert arguments[0].max() <= 1
        return lambda_returns(*arguments)

    monkeypatch.setattr(module, "lambda_returns", spy)
    config = PQNConfig(
        num_envs=8,
        steps_per_update=20,
        epochs=1,
        minibatch_size=32,
        network="nature",
        learning_rate=5e-4,
        discount=0.5,
        precision="fp32",
        device="cpu",
    )
    player = PQNPlayer(find_game("Breakout"), EnvironmentConfig(), 8 * 20 * 15, config, seed=0)
    rollouts = play(player, 15)
    scores = [float(episode.raw_rewards.mean()) / 5 for rollout in rollouts for episode, _ in rollout.episodes]
    assert np.mean(scores[:16]) < 0.5
    assert np.mean(scores[-16:]) > 0.9
    # A lost life (after steps 10 and 20 of 30) ends the return, as the end of the game (after step 30) does.
    ends = torch.cat(terminated)
    assert ends[9::10].all()
    assert ends.sum() == len(ends) // 10 * 8
    assert {len(episode) for rollout in rollouts for episode, _ in rollout.episodes} == {30}


class TruncatedToyVectorEnv(ToyVectorEnv):
    """A time limit truncates every episode after 30 steps."""

    def step(self, actions: npt.NDArray[np.int64]) -> Any:
        states, rewards, done = super().step(actions)
        self.terminated = np.zeros_like(done)
        return states, rewards, done


def test_update_is_that_of_the_publication(monkeypatch: pytest.MonkeyPatch) -> None:
    """Truncated steps have no target, the learning rate falls linearly, and gradients are clipped."""
    monkeypatch.setattr(module, "make_autoreset_env", TruncatedToyVectorEnv)
    has_target, loss = [], PQNPlayer._minibatch_loss

    def spy(self: PQNPlayer, *arguments: torch.Tensor) -> torch.Tensor:
        has_target.append(arguments[3])
        return loss(self, *arguments)

    monkeypatch.setattr(PQNPlayer, "_minibatch_loss", spy)
    changes = []
    for clip in (10.0, 1e-12):  # far below the epsilon in Adam's denominator
        config = PQNConfig(2, 30, 2, 12, precision="fp32", device="cpu", compile="off", grad_norm_clip=clip)
        player = PQNPlayer(find_game("Breakout"), EnvironmentConfig(), 600, config, seed=0)
        before = [parameter.detach().clone() for parameter in player._model.parameters()]
        rates = [rollout.metrics["learning_rate"] for rollout in play(player, 4)]
        assert rates == pytest.approx([2.5e-4 * (1 - 60 * update / 600) for update in range(4)])
        pairs = zip(before, player._model.parameters(), strict=True)
        changes.append(max(float((a - b).detach().abs().max()) for a, b in pairs))
    assert changes[0] > 1e-4
    assert changes[1] < 1e-6
    assert len(has_target) == 2 * 4 * 2 * 5
    assert sum(int(each.sum()) for each in has_target) == 2 * 4 * 2 * (60 - 2)

    blocks = torch.randint(256, (3, 21, 21, 64), dtype=torch.uint8)
    arguments = blocks, torch.tensor([0, 1, 2]), torch.tensor([0.5, 1.0, -1.0]), torch.tensor([True, False, True])
    values = player._model(blocks)
    expected = 0.5 * ((values[0, 0] - 0.5) ** 2 + (values[2, 2] + 1) ** 2) / 3
    torch.testing.assert_close(loss(player, *arguments), expected)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_gpu_computations_compile_without_graph_breaks(precision: Any) -> None:
    """The loss, the network and the returns are one graph each, with the results of eager mode."""
    config = dataclasses.replace(SMALL, precision=precision)
    player = PQNPlayer(find_game("Breakout"), EnvironmentConfig(), 1000, config, seed=0)
    blocks = torch.randint(256, (4, 21, 21, 64), dtype=torch.uint8)
    batch = blocks, torch.tensor([0, 1, 2, 3]), torch.randn(4), torch.tensor([True, True, False, True])
    steps = torch.randn(5, 2), torch.randn(6, 2), torch.rand(5, 2) < 0.3, torch.rand(5, 2) < 0.1, 0.99, 0.65
    for function, arguments in ((player._minibatch_loss, batch), (player._model, batch[:1]), (lambda_returns, steps)):
        compiled = torch.compile(function, fullgraph=True, dynamic=False, backend="aot_eager")
        torch.testing.assert_close(compiled(*arguments), function(*arguments))


def test_bad_parameters_are_refused() -> None:
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
    with pytest.raises(FloatingPointError, match="lower `learning_rate`"):
        play(player, 1)
