"""Measure how fast a network plays, where the time goes, and how fast the original code plays."""

from atari_dt.interrupts import exit_on_interrupt

exit_on_interrupt(__name__)

import json
import multiprocessing
import statistics
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro
from benchmark_tools import check_original, describe_machine, median_and_range

from atari_dt.command_line import run
from atari_dt.config import ModelConfig, TrainingConfig
from replay_data import InputError
from replay_data.storage.atomic import atomic_write
from replay_data.storage.paths import check_writable
from replay_data.storage.processes import defer_signals


def main(
    game: str = "Breakout",
    num_envs: tuple[int, ...] = (1, 10, 32),
    episodes_per_env: int = 3,
    context_length: int = 30,
    num_layers: int = 6,
    rounds: int = 2,
    max_steps: int = 27_000,
    device: str = "auto",
    attention: bool = False,
    fast: bool = False,
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
        num_layers: Number of transformer blocks; 6 beside the original code.
        rounds: Number of rounds.
        max_steps: Number of steps after which an episode is truncated; the original code has no such limit.
        device: Device of the network.
        attention: Whether to measure also with attention weights, and with attention weights and the policy under 8
            other target returns, as in scripts/visualize_attention.py.
        fast: Whether to measure also the network of the fast recipe, without cached keys and values and with them.
        original: Checkout of github.com/kzl/decision-transformer, whose evaluation loop, environment and network (with
            the same weights) play ten episodes per round, in one environment on a CPU.
        json_file: File to write the figures to.
    """
    check_original(original, "run_dt_atari.py")
    if min(*num_envs, episodes_per_env, context_length, num_layers, rounds) < 1:
        raise InputError("all sizes must be at least 1")
    if original is not None and num_layers != 6:
        raise InputError(f"`num_layers` must be 6 beside the original code, not {num_layers}")
    if json_file:
        check_writable(json_file)
    from evaluation_contestants import MAX_TIMESTEP, play, play_original, save_weights

    from atari_dt.environment.python_env import action_meanings
    from atari_dt.games.catalogue import find_game
    from atari_dt.hardware import find_device, keep_freed_memory, translate_out_of_memory
    from atari_dt.model import DecisionTransformer
    from atari_dt.recipes import apply_recipe

    played_game, torch_device = find_game(game), find_device(device)
    num_actions = len(action_meanings(played_game))
    config = ModelConfig(context_length=context_length, num_layers=num_layers)
    contestants: dict[str, Callable[[], dict[str, float]]] = {}
    with ExitStack() as stack:
        if original is not None:
            weights = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "weights.pth"
            pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
            stack.callback(pool.shutdown, cancel_futures=True)
            original_arguments = original / "atari", played_game.rom, num_actions, context_length, weights
            with defer_signals():  # the process never hears them; this one ends it
                saved = pool.submit(save_weights, *original_arguments)
            saved.result()
            contestants["original"] = lambda: pool.submit(play_original, *original_arguments).result()
            model = DecisionTransformer.from_original_checkpoint(weights)
        else:
            model = DecisionTransformer(config, num_actions, MAX_TIMESTEP)
        if torch_device.type == "cpu":
            keep_freed_memory()
        model = model.to(torch_device).eval()
        if fast:
            fast_config, _ = apply_recipe("fast", config, TrainingConfig())
            fast_model = DecisionTransformer(fast_config, num_actions, MAX_TIMESTEP).to(torch_device).eval()
        for count in num_envs:
            arguments = played_game, count, episodes_per_env, max_steps
            contestants[str(count)] = partial(play, model, *arguments)
            if attention:
                contestants[f"{count}, attention"] = partial(play, model, *arguments, num_target_returns=1)
                contestants[f"{count}, 8 targets"] = partial(play, model, *arguments, num_target_returns=9)
            if fast:
                contestants[f"{count}, fast"] = partial(play, fast_model, *arguments)
                contestants[f"{count}, cached"] = partial(play, fast_model, *arguments, cache=True)
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
            "num_layers": num_layers,
            **describe_machine(torch_device),
            "figures": figures,
        }
        atomic_write(json_file, json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    run(main)
