"""Measure how fast a network plays, where the time goes, and how fast the original code plays."""

import io
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
import types
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, redirect_stdout
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any
from unittest.mock import patch

import ale_py
import numpy as np
import torch
import tyro
from ale_py import roms
from benchmark_tools import check_original, describe_machine, median_and_range, original_network

from atari_dt.command_line import run
from atari_dt.config import ModelConfig
from atari_dt.environment.config import EnvironmentConfig
from atari_dt.environment.python_env import action_meanings
from atari_dt.environment.vector_env import AleVectorEnv
from atari_dt.evaluation import DecisionTransformerPolicy, evaluate_policy
from atari_dt.evaluation.policy import Policy
from atari_dt.games.catalogue import Game, find_game
from atari_dt.hardware import find_device, keep_freed_memory, synchronize, translate_out_of_memory
from atari_dt.interpretation.tracing import TracingPolicy
from atari_dt.model import DatasetInfo, DecisionTransformer
from replay_data import InputError
from replay_data.storage.atomic import atomic_write
from replay_data.storage.paths import check_writable
from replay_data.storage.processes import ignore_signals

TARGET_RETURN = 90.0
MAX_TIMESTEP = 2000


def main(
    game: str = "Breakout",
    num_envs: tuple[int, ...] = (1, 10, 32),
    episodes_per_env: int = 3,
    context_length: int = 30,
    rounds: int = 2,
    max_steps: int = 27_000,
    device: str = "auto",
    attention: bool = False,
    original: Path | None = None,
    json_file: Annotated[Path | None, tyro.conf.arg(name="json")] = None,
) -> None:
    """Play whole episodes with the paper's network and fresh weights, the starts of episodes included.

    Every round measures every contestant once. Figures are medians over the rounds.

    Args:
        game: Name of the game.
        num_envs: Numbers of environments to measure.
        episodes_per_env: Number of episodes in a round, per environment.
        context_length: Number of steps of a context.
        rounds: Number of rounds.
        max_steps: Number of steps after which an episode is truncated; the original code has no such limit.
        device: Device of the network.
        attention: Whether to measure also with attention weights, and with attention weights and the policy under 8
            other target returns, as in scripts/visualize_attention.py.
        original: Checkout of github.com/kzl/decision-transformer, whose evaluation loop, environment and network (with
            the same weights) play ten episodes per round, in one environment on a CPU.
        json_file: File to write the figures to.
    """
    check_original(original, "run_dt_atari.py")
    if min(*num_envs, episodes_per_env, context_length, rounds) < 1:
        raise InputError("all sizes must be at least 1")
    if json_file:
        check_writable(json_file)
    played_game, torch_device = find_game(game), find_device(device)
    num_actions = len(action_meanings(played_game))
    contestants: dict[str, Callable[[], dict[str, float]]] = {}
    with ExitStack() as stack:
        if original is not None:
            weights = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "weights.pth"
            pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
            stack.callback(pool.shutdown, cancel_futures=True)
            original_arguments = original / "atari", played_game.rom, num_actions, context_length, weights
            with ignore_signals():  # inherited by the process, which the parent ends
                pool.submit(save_weights, *original_arguments).result()
            contestants["original"] = lambda: pool.submit(play_original, *original_arguments).result()
            model = DecisionTransformer.from_original_checkpoint(weights)
        else:
            model = DecisionTransformer(ModelConfig(context_length=context_length), num_actions, MAX_TIMESTEP)
        if torch_device.type == "cpu":
            keep_freed_memory()
        for count in num_envs:
            arguments = model.to(torch_device).eval(), played_game, count, episodes_per_env, max_steps
            contestants[str(count)] = partial(play, *arguments)
            if attention:
                contestants[f"{count}, attention"] = partial(play, *arguments, num_target_returns=1)
                contestants[f"{count}, 8 targets"] = partial(play, *arguments, num_target_returns=9)
        with translate_out_of_memory(torch_device, "`num_envs`"):
            results = [{name: contestant() for name, contestant in contestants.items()} for _ in range(rounds)]

    figures = {
        name: {key: statistics.median(result[name][key] for result in results) for key in results[0][name]}
        for name in contestants
    }
    parts = ("emulator", "encoder", "transformer", "rest")
    header = f"{'environments':>15}{'steps/s':>9}{'emulator':>10}{'encoder':>9}{'transformer':>13}{'rest':>6}"
    print(header + (f"{'against original':>18}" if original is not None else ""))
    for name, values in figures.items():
        shares = [f"{values[part]:.0%}" if part in values else "" for part in parts]
        ratio = ""
        if original is not None and name != "original":
            values["ratio"], low, high = median_and_range(
                result[name]["steps_per_s"] / result["original"]["steps_per_s"] for result in results
            )
            ratio = f"{values['ratio']:.1f}× ({low:.1f}-{high:.1f})"
        cells = zip((name, f"{values['steps_per_s']:.0f}", *shares, ratio), (15, 9, 10, 9, 13, 6, 18), strict=True)
        print("".join(cell.rjust(width) for cell, width in cells))
    if json_file:
        content = {
            "game": played_game.name,
            "context_length": context_length,
            **describe_machine(torch_device),
            "figures": figures,
        }
        atomic_write(json_file, json.dumps(content, indent=2) + "\n")


def play(
    model: DecisionTransformer,
    game: Game,
    num_envs: int,
    episodes_per_env: int,
    max_steps: int,
    num_target_returns: int = 0,
) -> dict[str, float]:
    """Play episodes; return steps/s and the shares of time in the emulator, the encoder and the transformer.

    If ``num_target_returns`` is positive, also trace the attention weights and the policy under that many target
    returns.
    """
    device = next(model.parameters()).device
    seconds = dict.fromkeys(("emulator", "encoder", "transformer"), 0.0)

    def timed(part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            synchronize(device)
            start = time.perf_counter()
            result = function(*args, **options)
            synchronize(device)
            seconds[part] += time.perf_counter() - start
            return result

        return call

    env = AleVectorEnv(game, num_envs, EnvironmentConfig.with_max_steps(max_steps))
    model.dataset = DatasetInfo(game.name, tuple(env.action_meanings), True, 0.25, TARGET_RETURN)
    policy = DecisionTransformerPolicy(model, num_envs, keep_last_step=num_target_returns > 0)
    evaluated_policy: Policy = policy
    if num_target_returns:
        shifts = np.arange(num_target_returns, dtype=np.float32)
        evaluated_policy = TracingPolicy(policy, model.config.conditioning, shifts, played_index=0)
    for owner, method, part in (
        (env, "reset", "emulator"),
        (env, "restart", "emulator"),
        (env, "step", "emulator"),
        (policy, "_encode", "encoder"),
        (policy, "_predict", "transformer"),
    ):
        setattr(owner, method, timed(part, getattr(owner, method)))
    start = time.perf_counter()
    (result,) = evaluate_policy(
        evaluated_policy, env, [TARGET_RETURN], episodes_per_env * num_envs, True, 0, show_progress=False
    )
    total = time.perf_counter() - start
    shares = {part: value / total for part, value in seconds.items()}
    return {"steps_per_s": int(result.lengths.sum()) / total, **shares, "rest": 1 - sum(shares.values())}


def save_weights(code: Path, rom: str, num_actions: int, context_length: int, weights: Path) -> None:
    """Save fresh weights of the original code's network."""
    torch.manual_seed(0)
    torch.save(original_network(code, num_actions, 3 * context_length, MAX_TIMESTEP).state_dict(), weights)


def play_original(code: Path, rom: str, num_actions: int, context_length: int, weights: Path) -> dict[str, float]:
    """Play ten episodes with the original code; return steps/s.

    ale_py replaces atari_py, which can no longer be installed, and a CPU replaces the GPU that the code names.
    """

    class ALEInterface(ale_py.ALEInterface):
        def setInt(self, key: str, value: float) -> None:
            super().setInt(key, int(value))  # the original code passes 108e3

    sys.modules["atari_py"] = stand_in = types.ModuleType("atari_py")
    vars(stand_in).update(ALEInterface=ALEInterface, get_game_path=roms.get_rom_path)
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    network = original_network(code, num_actions, 3 * context_length, MAX_TIMESTEP).eval()
    network.load_state_dict(torch.load(weights, weights_only=True))
    from mingpt import trainer_atari  # type: ignore[import-not-found]

    steps = 0
    step = trainer_atari.Env.step

    def counted_step(self: Any, action: int) -> Any:
        nonlocal steps
        steps += 1
        return step(self, action)

    class Args(trainer_atari.Args):  # type: ignore[misc]
        def __init__(self, game: str, seed: int):
            super().__init__(game, seed)
            self.device = torch.device("cpu")

    trainer = trainer_atari.Trainer.__new__(trainer_atari.Trainer)
    trainer.device = "cpu"
    trainer.model = torch.nn.Module()
    trainer.model.module = network
    trainer.config = SimpleNamespace(game=rom, seed=0, max_timestep=MAX_TIMESTEP)
    with (
        patch.object(trainer_atari, "Args", Args),
        patch.object(trainer_atari.Env, "step", counted_step),
        redirect_stdout(io.StringIO()),
    ):
        start = time.perf_counter()
        trainer.get_returns(TARGET_RETURN)
        return {"steps_per_s": steps / (time.perf_counter() - start)}


if __name__ == "__main__":
    run(main)
