"""Measure how many steps of a game a network plays in a second, and where the time goes, beside the original code."""

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

from atari_dt.command_line import run
from atari_dt.config import ModelConfig
from atari_dt.environment.config import EnvironmentConfig
from atari_dt.environment.python_env import action_meanings
from atari_dt.environment.vector_env import AleVectorEnv
from atari_dt.evaluation import DecisionTransformerPolicy, evaluate_policy
from atari_dt.games.catalogue import Game, find_game
from atari_dt.hardware import find_device, keep_freed_memory, synchronize, translate_out_of_memory
from atari_dt.interpretation.episode_trace import TracingPolicy
from atari_dt.model import DatasetInfo, DecisionTransformer
from replay_data import InputError
from replay_data.storage.atomic import atomic_write
from replay_data.storage.paths import check_writable
from replay_data.storage.processes import ignore_signals

TARGET = 90.0
MAX_TIMESTEP = 2000


def main(
    game: str = "Breakout",
    num_envs: tuple[int, ...] = (1, 10, 32),
    episodes_per_game: int = 3,
    context_length: int = 30,
    rounds: int = 2,
    max_steps: int = 27_000,
    device: str = "auto",
    attention: bool = False,
    original: Path | None = None,
    json_file: Annotated[Path | None, tyro.conf.arg(name="json")] = None,
) -> None:
    """Play whole episodes with the paper's network and fresh weights, starts of episodes included.

    Everyone has a turn in each round; a ratio is the median of the rounds' ratios.

    Args:
        game: What is played.
        num_envs: Numbers of games played at once.
        episodes_per_game: Episodes in a round, for each of the games played at once.
        context_length: K.
        rounds: Of all contestants.
        max_steps: After which an episode is cut off; the original's are not.
        device: Where the network runs.
        attention: Also play while attention is kept, without and with what the policy would do under 8 other target
            returns, as scripts/visualize_attention.py does.
        original: A checkout of github.com/kzl/decision-transformer, whose evaluation loop, environment and network
            (with the same weights) play ten episodes a round, one game at a time, on a CPU.
        json_file: File for the figures.
    """
    if original is not None and not (original / "atari" / "run_dt_atari.py").is_file():
        raise InputError(f"{original} is no checkout of the original code: it has no atari/run_dt_atari.py")
    if min(*num_envs, episodes_per_game, context_length, rounds) < 1:
        raise InputError("all sizes must be at least 1")
    if json_file:
        check_writable(json_file)
    found, where = find_game(game), find_device(device)
    contestants: dict[str, Callable[[], dict[str, float]]] = {}
    with ExitStack() as stack:
        if original is not None:
            weights = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "weights.pth"
            pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
            stack.callback(pool.shutdown, cancel_futures=True)
            theirs = original / "atari", found.rom, len(action_meanings(found)), context_length, weights
            with ignore_signals():  # by the process, which inherits it
                pool.submit(save_weights, *theirs).result()
            contestants["original"] = lambda: pool.submit(play_original, *theirs).result()
            model = DecisionTransformer.from_original_checkpoint(weights)
        else:
            model = DecisionTransformer(
                ModelConfig(context_length=context_length), len(action_meanings(found)), MAX_TIMESTEP
            )
        if where.type == "cpu":
            keep_freed_memory()
        for games in num_envs:
            arguments = model.to(where).eval(), found, games, episodes_per_game, max_steps
            contestants[str(games)] = partial(play, *arguments)
            if attention:
                contestants[f"{games}, kept"] = partial(play, *arguments, targets=1)
                contestants[f"{games}, 8 more"] = partial(play, *arguments, targets=9)
        with translate_out_of_memory(where, "--num-envs"):
            results = [{name: contestant() for name, contestant in contestants.items()} for _ in range(rounds)]

    figures = {
        name: {key: statistics.median(result[name][key] for result in results) for key in results[0][name]}
        for name in contestants
    }
    parts = ("emulator", "encoder", "transformer", "rest")
    header = f"{'games':>10}{'steps/s':>9}{'emulator':>10}{'encoder':>9}{'transformer':>13}{'rest':>6}"
    print(header + (f"{'against original':>18}" if original is not None else ""))
    for name, values in figures.items():
        shares = [f"{values[part]:.0%}" if part in values else "" for part in parts]
        ratio = ""
        if original is not None and name != "original":
            ratios = sorted(result[name]["steps_per_s"] / result["original"]["steps_per_s"] for result in results)
            values["ratio"] = statistics.median(ratios)
            ratio = f"{values['ratio']:.1f}× ({ratios[0]:.1f}-{ratios[-1]:.1f})"
        cells = zip((name, f"{values['steps_per_s']:.0f}", *shares, ratio), (10, 9, 10, 9, 13, 6, 18), strict=True)
        print("".join(cell.rjust(width) for cell, width in cells))
    if json_file:
        about = {
            "game": found.name,
            "context_length": context_length,
            "device": torch.cuda.get_device_name(where) if where.type == "cuda" else "cpu",
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        }
        atomic_write(json_file, json.dumps(about | {"figures": figures}, indent=2) + "\n")


def play(
    model: DecisionTransformer, game: Game, num_envs: int, episodes_per_game: int, max_steps: int, targets: int = 0
) -> dict[str, float]:
    """Play episodes; return steps/s and the shares of time in the emulator, the encoder and the transformer.

    With ``targets``, attention is kept, and what the policy would do under so many target returns.
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

    games = AleVectorEnv(game, num_envs, EnvironmentConfig.with_max_steps(max_steps))
    model.dataset = DatasetInfo(game.name, tuple(games.action_meanings), True, 0.25, TARGET)
    policy = DecisionTransformerPolicy(model, num_envs, keep_last_step=targets > 0)
    shifts = np.arange(targets, dtype=np.float32)
    player = TracingPolicy(policy, model.config.conditioning, shifts, played=0) if targets else policy
    for owner, method, part in (
        (games, "reset", "emulator"),
        (games, "restart", "emulator"),
        (games, "step", "emulator"),
        (policy, "_encode", "encoder"),
        (policy, "_predict", "transformer"),
    ):
        setattr(owner, method, timed(part, getattr(owner, method)))
    start = time.perf_counter()
    (result,) = evaluate_policy(player, games, [TARGET], episodes_per_game * num_envs, True, 0, show_progress=False)
    total = time.perf_counter() - start
    shares = {part: value / total for part, value in seconds.items()}
    return {"steps_per_s": int(result.lengths.sum()) / total, **shares, "rest": 1 - sum(shares.values())}


def save_weights(code: Path, rom: str, num_actions: int, context_length: int, weights: Path) -> None:
    """Make the original network with fresh weights, and keep them."""
    torch.manual_seed(0)
    torch.save(original_network(code, num_actions, context_length).state_dict(), weights)


def original_network(code: Path, num_actions: int, context_length: int) -> Any:
    """The original network in the paper's size."""
    if str(code) not in sys.path:
        sys.path.insert(0, str(code))
    from mingpt.model_atari import GPT, GPTConfig  # type: ignore[import-not-found]

    config = GPTConfig(
        num_actions,
        3 * context_length,
        n_layer=6,
        n_head=8,
        n_embd=128,
        model_type="reward_conditioned",
        max_timestep=MAX_TIMESTEP,
    )
    return GPT(config)


def play_original(code: Path, rom: str, num_actions: int, context_length: int, weights: Path) -> dict[str, float]:
    """Let the original code play its ten episodes.

    It asks for atari_py, which no longer installs; ale_py stands in for it. Its device, a GPU by name, is set to a CPU.
    """

    class ALEInterface(ale_py.ALEInterface):
        def setInt(self, key: str, value: float) -> None:
            super().setInt(key, int(value))  # the original passes 108e3

    sys.modules["atari_py"] = stand_in = types.ModuleType("atari_py")
    vars(stand_in).update(ALEInterface=ALEInterface, get_game_path=roms.get_rom_path)
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    network = original_network(code, num_actions, context_length).eval()
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
        trainer.get_returns(TARGET)
        return {"steps_per_s": steps / (time.perf_counter() - start)}


if __name__ == "__main__":
    run(main)
