"""What players play becomes a replay log in Dopamine's format, whole and resumable whatever happens.

A recording is a directory ``{out}/{Game}/{run}`` with the log in ``replay_logs``, ``recording.json`` (who plays, and
how), TensorBoard's files, and one ``checkpoints/buffers-B``: the player's state when B buffers were complete, and the
episodes at their end that had ended by then but did not fit in. A checkpoint is written first, and the buffers that it
speaks of are made visible after it, one by one, or else by whoever resumes.
"""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import numpy as np

from atari_dt.collection.buffer_writer import BufferWriter
from atari_dt.collection.recorder_checkpoint import (
    CHECKPOINTS_DIRECTORY,
    LOGS_DIRECTORY,
    RECORDING_FILE,
    RecorderCheckpoint,
    list_checkpoints,
)
from atari_dt.collection.rollout import Player
from atari_dt.config import describe_differences
from atari_dt.environment.config import EnvironmentConfig, rom_sha256
from atari_dt.environment.python_env import action_meanings
from atari_dt.games.catalogue import Game
from replay_data import InputError
from replay_data.recording import Recording, Scalar
from replay_data.sources.dopamine_format import NUM_BUFFERS, PADDING
from replay_data.sources.dopamine_sidecar import BufferSidecar
from replay_data.sources.dopamine_writer import recover_log
from replay_data.storage.atomic import atomic_write, sync
from replay_data.storage.locks import exclusive_lock
from replay_data.storage.paths import check_free_space

BYTES_PER_STEP = 250  # more than any game's frames were seen to take, compressed


def record(
    game: Game,
    make_player: Callable[[], Player],
    out: Path,
    *,
    agent: str,
    num_steps: int,
    environment: EnvironmentConfig,
    seed: int,
    settings: Mapping[str, Scalar],
    run: int = 1,
    resume: bool = False,
    show_progress: bool = True,
) -> list[BufferSidecar]:
    """Let a player play until 50 buffers of ``num_steps // 50`` rows are full.

    Whole episodes are put one after another in the order they ended; the last one goes as far as there is room. What is
    still being played then is dropped.

    Args:
        game: what is played.
        make_player: called when everything has been checked.
        out: the log is in ``out/{Game}/{run}/replay_logs``.
        agent: name of the player.
        num_steps: rows of the log, the three that pad each episode included.
        environment: how it is played.
        seed: of the player.
        settings: of the player; like all that precedes, a recording that goes on must have the same.
        run: number of the recording.
        resume: go on after the last whole buffer, if there is one. The episodes that were being played are lost, and
            new ones begin.
        show_progress: a progress bar in rows/s on standard error.

    Returns:
        What the JSON files beside the buffers say.

    Raises:
        InputError: if a number is too small, the recording exists (or, to be resumed, has other settings), or the
            disk cannot hold it.
        OSError: if writing fails; whole buffers are left, as they are after Ctrl-C, and nothing if there are none.
    """
    rows = num_steps // NUM_BUFFERS
    if rows < PADDING + 2:
        raise InputError(f"num_steps must be at least {NUM_BUFFERS * (PADDING + 2)}, not {num_steps}")
    if run < 0:
        raise InputError(f"run must be at least 0, not {run}")
    if not 0 <= seed < 2**63:
        raise InputError(f"seed must lie between 0 and 2**63 - 1, not {seed}")
    directory = out / game.name / str(run)
    recording = Recording(
        agent=agent,
        game=game.name,
        num_steps=num_steps,
        seed=seed,
        sticky_actions=environment.sticky_actions,
        max_frames=environment.max_frames,
        action_meanings=tuple(action_meanings(game)),
        rom_sha256=rom_sha256(game, environment),
        settings=settings,
        versions={name: importlib.metadata.version(name) for name in ("atari-dt", "ale-py", "numpy", "torch")},
    )
    _check_recording(directory, recording, resume)
    try:
        with _recording_directory(directory, recording):
            checkpoint = RecorderCheckpoint.read(directory)
            check_free_space(directory, (NUM_BUFFERS - checkpoint.whole) * rows * BYTES_PER_STEP)
            recover_log(directory / LOGS_DIRECTORY, checkpoint.stage, checkpoint.whole)
            if checkpoint.whole < NUM_BUFFERS:
                player = make_player()
                if checkpoint.player is not None:
                    player.restore(checkpoint.player)
                with BufferWriter(directory, rows, recording, checkpoint) as writer:
                    _play(player, writer, directory, checkpoint, num_steps, game.name, show_progress)
    except KeyboardInterrupt:
        whole = len(read_recording(directory))
        there = f"{whole} of {NUM_BUFFERS} buffers are in {directory}; --resume goes on after them"
        raise KeyboardInterrupt(there if whole else "nothing was kept") from None
    return read_recording(directory)


def read_recording(directory: Path) -> list[BufferSidecar]:
    """What the JSON files beside a recording's buffers say; ``directory`` is ``{out}/{Game}/{run}``."""
    found = (BufferSidecar.read(directory / LOGS_DIRECTORY, number) for number in range(NUM_BUFFERS))
    return [buffer for buffer in found if buffer is not None]


def _play(
    player: Player,
    writer: BufferWriter,
    directory: Path,
    checkpoint: RecorderCheckpoint,
    num_steps: int,
    name: str,
    show_progress: bool,
) -> None:
    # Imported here, because the processes of scripted players import this file, and have no use for PyTorch.
    from torch.utils.tensorboard import SummaryWriter

    from replay_data.progress import ProgressBar

    played, start, scores = checkpoint.played, time.perf_counter(), deque[float](maxlen=100)
    with (
        SummaryWriter(directory / "tensorboard", purge_step=played + 1 if played else None) as board,
        ProgressBar(
            total=num_steps,
            initial=min(writer.add_count, num_steps),
            unit="step",
            desc=f"playing {name}",
            disable=not show_progress,
        ) as bar,
        closing(player.play()) as rounds,
    ):
        for part in rounds:
            played += part.steps
            for episode, details in part.episodes:
                scores.append(float(episode.raw_rewards.sum()))
                at = int(details.get("played", played))
                board.add_scalar("score", scores[-1], at)
                board.add_scalar("return", float(episode.raw_rewards.clip(-1, 1).sum()), at)
            elapsed = time.perf_counter() - start
            speed = (played - checkpoint.played) / elapsed
            values = {**part.values, "steps_per_s": speed, "writer_share": writer.seconds / elapsed}
            for key, value in values.items():
                board.add_scalar(key, value, played)
            complete = writer.add(part.episodes, played, player.state)
            score = f"{np.mean(scores):.1f}" if scores else "-"
            bar.set_postfix_str(f"score={score}, playing {speed:,.0f} steps/s", refresh=False)
            bar.update(min(writer.add_count, num_steps) - bar.n)
            if complete:
                break
        writer.finish()


def _check_recording(directory: Path, recording: Recording, resume: bool) -> None:
    """Raise InputError if there is a recording already, or, to be resumed, one with other settings."""
    path = directory / RECORDING_FILE
    if not directory.exists() or all(entry.name.startswith(".recording") for entry in directory.iterdir()):
        return  # it was killed, if anything, before it had written anything
    if not resume:
        raise InputError(
            f"{directory} exists already; choose another --out or --run, delete it, or go on from it with --resume"
        )
    try:
        saved = Recording.from_json(json.loads(path.read_text()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{directory} is no recording that could be resumed ({path.name} cannot be read)") from error
    if differences := describe_differences(saved.flat(), recording.flat(), ignore=("versions",)):
        raise InputError(f"{directory} was recorded with other settings: {differences}; resume it with those")
    if _has_buffers(directory) and not list_checkpoints(directory):
        raise InputError(f"{directory} has no checkpoint to go on from; its buffers can be used")


@contextmanager
def _recording_directory(directory: Path, recording: Recording) -> Iterator[None]:
    """Make and hold the directory of a recording; remove it again if no buffer was completed."""
    made = [parent for parent in (directory.parent, directory.parent.parent) if not parent.exists()]
    directory.mkdir(parents=True, exist_ok=True)
    with exclusive_lock(directory, "recording in"):
        try:
            if not (directory / RECORDING_FILE).exists():
                atomic_write(
                    directory / RECORDING_FILE,
                    json.dumps({"format_version": 2, **recording.to_json()}, indent=2) + "\n",
                )
            for part in (LOGS_DIRECTORY, CHECKPOINTS_DIRECTORY):
                (directory / part).mkdir(exist_ok=True)
            for parent in (directory, directory.parent, directory.parent.parent):
                sync(parent)
            for left in (directory / CHECKPOINTS_DIRECTORY).glob(".*"):  # by sessions that were killed
                shutil.rmtree(left)
            yield
        except BaseException:
            if not _has_buffers(directory) and not list_checkpoints(directory):
                shutil.rmtree(directory, ignore_errors=True)
                for parent in made:
                    with suppress(OSError):  # somebody else's files are in it
                        parent.rmdir()
            raise


def _has_buffers(directory: Path) -> bool:
    return any((directory / LOGS_DIRECTORY).glob("*_ckpt.*"))
