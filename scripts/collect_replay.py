"""Record a player as a Dopamine replay log, the format of the DQN-replay dataset."""

from __future__ import annotations

from atari_dt.interrupts import exit_on_interrupt

exit_on_interrupt(__name__)

import dataclasses
import os
from pathlib import Path
from typing import Annotated

import tyro

from atari_dt.command_line import format_command, unused_path
from atari_dt.command_line import run as run_command
from atari_dt.player_config import DEFAULT_EPSILONS, PQNConfig
from replay_data import InputError
from replay_data.storage.atomic import atomic_write


class _LearningOptions(PQNConfig):
    """The options of q_learning. Two of them are shared with other agents, for which the rest is not checked."""

    def __post_init__(self) -> None:
        pass


def main(
    out: Path,
    game: str = "Breakout",
    agent: Annotated[str, tyro.conf.arg(metavar="{q_learning,scripted,hub,MODULE:FUNCTION}")] = "q_learning",
    policies: tuple[str, ...] = (),
    epsilons: tuple[float, ...] = DEFAULT_EPSILONS,
    num_steps: int = 5_000_000,
    run: int = 1,
    sticky_actions: float = 0.25,
    max_steps: int = 27_000,
    seed: int = 0,
    num_workers: int | None = None,
    ram: tyro.conf.DisallowNone[bool | None] = None,
    resume: bool = False,
    archive: Path | None = None,
    learning: tyro.conf.OmitArgPrefixes[_LearningOptions] = _LearningOptions(),  # noqa: B008
) -> None:
    """Play a game and record every step, as 50 Dopamine log buffers in OUT/{game}/{run}/replay_logs.

    Args:
        out: Directory of recordings. A recording takes 0.1 to 0.3 KB per step, and 10 to 20% more with RAM.
        game: Name of the game, such as Breakout or MsPacman.
        agent: The player. q_learning: a network that learns any game from scratch (PQN), so that the log goes from
            random to good play. scripted: policies of every skill that read the emulator's RAM (Breakout and Pong
            only), several times faster. hub: trained agents of Stable-Baselines3; random actions spread their
            skill from their best to random play. MODULE:FUNCTION, such as package.module:function: a function of yours
            that makes a policy, which plays like the agents of hub (docs/extending.md).
        policies: The trained agents of hub, which play in turn: repositories on the Hugging Face Hub, such as
            sb3/dqn-BreakoutNoFrameskip-v4 (or OWNER/NAME@REVISION), and zip files that Stable-Baselines3 saved.
            Nothing in them is unpickled.
        epsilons: Probabilities of a random action at each step, for hub and functions. Each episode has one of them, in
            turn: 0 plays the agent itself, 1 plays at random.
        num_steps: Rows of the log; each of its 50 buffers gets a fiftieth of them.
        run: Index of the recording among those of the game.
        sticky_actions: Probability, at each emulator frame, that the emulator repeats the previous action.
        max_steps: Maximum number of steps of an episode.
        seed: Seed of the player and the environments.
        num_workers: Number of worker processes of the scripted agent; one per core by default.
        ram: Record the emulator's RAM beside the frames, for models that observe it or variables in it. scripted does
            so by default, which takes no longer. The others step their emulators in Python for it: a step of
            q_learning then takes a quarter longer, and one of hub and functions half as long again. A resumed recording
            goes on as it began.
        resume: Continue an interrupted or killed recording after its last complete buffer.
        archive: Path of a JSON file to write too, such as docs/data/breakout-log.json: scores and lengths of all
            episodes and the size of the log. scripts/build_results.py makes a table and a figure of it.
        learning: Settings of q_learning. The number of environments applies to hub and functions too, the device to
            hub.
    """
    # Keep PyTorch's idle threads from spinning on the cores that the emulator's threads need. The imports below load
    # PyTorch, which reads this variable.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from atari_dt.collection.agents import record_agent
    from atari_dt.collection.recorder import read_recording
    from atari_dt.environment.config import EnvironmentConfig
    from atari_dt.games.catalogue import find_game
    from replay_data.sources.dopamine_format import NUM_BUFFERS, PADDING

    played_game = find_game(game)
    if archive is not None and archive.suffix != ".json":
        raise InputError(f"`archive` must end in .json, as in docs/data/log.json, not be {archive}")
    defaults = dataclasses.asdict(_LearningOptions())
    changed = {name: value for name, value in dataclasses.asdict(learning).items() if value != defaults[name]}
    others = [f"`{name}`" for name in changed if name not in ("num_envs", "device")]
    if others and agent != "q_learning":
        raise InputError(f"some options apply to q_learning only; leave them out: {', '.join(others)}")
    directory = out / played_game.name / str(run)
    was_complete = len(read_recording(directory)) == NUM_BUFFERS
    buffers = record_agent(
        played_game,
        agent,
        out,
        num_steps=num_steps,
        seed=seed,
        environment=EnvironmentConfig.with_max_steps(max_steps, sticky_actions=sticky_actions),
        learning=PQNConfig(**changed) if agent == "q_learning" else None,
        policies=policies,
        epsilons=None if epsilons == DEFAULT_EPSILONS else epsilons,
        num_envs=None if agent == "q_learning" else changed.get("num_envs"),
        device=None if agent == "q_learning" else changed.get("device"),
        num_workers=num_workers,
        ram=ram,
        run=run,
        resume=resume,
    )
    from atari_dt.rendering.replay_summary import (
        disk_usage,
        policy_table,
        replay_figure,
        replay_table,
        suggest_selection,
    )

    if was_complete:
        print(f"note:   {directory} was complete already; nothing was recorded")
    usage = disk_usage(directory / "replay_logs", buffers)
    atomic_write(directory / "returns.png", replay_figure(played_game, buffers))
    print(replay_table(buffers))
    if policies_played := policy_table(buffers):
        print(policies_played)
    rows = buffers[0].rows
    of_ram = f", {usage.ram_bytes_per_row:.0f} of them RAM" if usage.ram_bytes_per_row else ""
    print(
        f"{directory}: {len(buffers)} buffers of {rows:,} rows, {usage.num_bytes / 1e6:,.0f} MB, "
        f"{usage.bytes_per_row:.0f} bytes per row{of_ram}"
    )
    print(f"figure: {directory / 'returns.png'}")
    if archive is not None:
        from atari_dt.rendering.recording_archive import archive_recording

        archive_recording(buffers, usage.num_bytes, archive)
        print(f"archive: {archive} ({archive.stat().st_size / 1000:.0f} kB)")
    if (selection := suggest_selection(buffers)) is None:
        total, extra = rows * len(buffers), PADDING + 1  # the last row of a log has no step
        num_rows = -(-(max_steps + extra) // len(buffers)) * len(buffers)
        print(
            f"note:   no episode ends in the recording's {total:,} rows, so no dataset can be built from it; record "
            f"again with --num-steps {num_rows}, or with --max-steps {total - extra} or less"
        )
        return
    options = ["--game", played_game.name, "--run", str(run), "--selection", selection.method]
    if selection.method == "even":
        options += ["--num-steps", str(selection.num_steps)]
    source = "--source", "dopamine", "--path", out
    store = unused_path(Path("data", played_game.name.lower()))
    command = format_command("build_dataset.py", *source, *options, "--out", store)
    print(f"next:   {command}")


if __name__ == "__main__":
    run_command(main)
