"""Make a replay log in the format of the DQN-replay dataset: a player plays, and everything it does is recorded."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any, Literal

import tyro

from atari_dt.command_line import run as run_command
from atari_dt.config import PQNConfig
from atari_dt.environment.config import EnvironmentConfig
from atari_dt.games.catalogue import find_game
from replay_data import InputError
from replay_data.storage.atomic import atomic_write


def main(
    out: Path,
    game: str = "Breakout",
    agent: Literal["q_learning", "scripted"] = "q_learning",
    num_steps: int = 5_000_000,
    run: int = 1,
    sticky_actions: float = 0.25,
    max_steps: int = 27_000,
    seed: int = 0,
    num_workers: int | None = None,
    resume: bool = False,
    learning: tyro.conf.OmitArgPrefixes[PQNConfig] = PQNConfig(),  # noqa: B008
) -> None:
    """Play a game and record it: 50 Dopamine log buffers in OUT/{game}/{run}/replay_logs.

    Args:
        out: Directory that holds recordings; 0.1 KB a step.
        game: The game, spelled like Breakout or MsPacman.
        agent: Who plays. q_learning: a network that learns any game from nothing (PQN), from random to good. scripted:
            players of every skill that read the emulator's RAM (Breakout and Pong), several times as fast.
        num_steps: Rows of the log in all; each of its 50 buffers has a fiftieth of them.
        run: Number of the recording; each has one of its own.
        sticky_actions: Probability that the game repeats the previous action.
        max_steps: Steps after which an episode is cut off.
        seed: Of the player and the game.
        num_workers: Processes that play (scripted); by default one per core.
        resume: Go on after the last whole buffer of a recording that was interrupted or killed.
        learning: How q_learning learns.
    """
    # Imported here, because the processes that play import this file too, and have no use for PyTorch.
    from atari_dt.collection.recorder import record
    from atari_dt.collection.rollout import Player
    from atari_dt.collection.scripted import ScriptedPlayer

    found, environment = find_game(game), EnvironmentConfig.with_max_steps(max_steps, sticky_actions=sticky_actions)
    if agent == "scripted" and learning != PQNConfig():
        raise InputError("the options of q_learning mean nothing to scripted players; leave them out")
    if agent == "q_learning" and num_workers is not None:
        raise InputError("--num-workers is for scripted players; --num-envs says how many games q_learning plays")
    settings: dict[str, Any] = {}
    if agent == "q_learning":
        # PyTorch's threads would otherwise spin while they wait, on the cores that the emulators' threads play on. This
        # is read when PyTorch is loaded, by the import below.
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
        from atari_dt.collection.pqn import PQNPlayer, recorded_settings

        settings = recorded_settings(learning)

    def make_player() -> Player:
        if agent == "scripted":
            return ScriptedPlayer(found, environment, seed, num_workers)
        return PQNPlayer(found, environment, num_steps, learning, seed)

    buffers = record(
        found,
        make_player,
        out,
        agent=agent,
        num_steps=num_steps,
        environment=environment,
        seed=seed,
        settings=settings,
        run=run,
        resume=resume,
    )
    from atari_dt.rendering.replay_summary import bytes_per_step, replay_figure, replay_table, suggested_selection

    directory = out / found.name / str(run)
    size, per_row = bytes_per_step(directory / "replay_logs", buffers)
    atomic_write(directory / "returns.png", replay_figure(found, buffers))
    print(replay_table(buffers))
    rows = buffers[0].rows
    print(f"{directory}: {len(buffers)} buffers of {rows:,} rows, {size / 1e6:,.0f} MB, {per_row:.0f} bytes a row")
    print(f"figure: {directory / 'returns.png'}")
    print(
        f"next:   python scripts/build_dataset.py --source dopamine --path {shlex.quote(str(out))} --game {found.name} "
        f"--run {run} {suggested_selection(buffers)} --out data/{found.name.lower()}"
    )


if __name__ == "__main__":
    run_command(main)
