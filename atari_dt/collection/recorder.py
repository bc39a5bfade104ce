"""Record episodes as Dopamine replay logs, with crash-safe resume.

A recording is a directory ``{out}/{Game}/{run}`` with:

- ``replay_logs/``: the log, 50 buffers.
- ``recording.json``: who plays, and how (`replay_data.recording.Recording`).
- ``checkpoints/buffers-{B}/``: the state after B complete buffers (`atari_dt.collection.recorder_checkpoint`).
- ``tensorboard/``: curves of scores, losses and speed.

A checkpoint is written before its buffers are published. If the process is killed in between, the resumed recording
publishes them.
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
from atari_dt.config import ARITHMETIC_SETTINGS, describe_differences
from atari_dt.environment.config import EnvironmentConfig
from atari_dt.environment.python_env import action_meanings
from atari_dt.environment.rom import rom_sha256
from atari_dt.games.catalogue import Game
from replay_data import InputError
from replay_data.errors import summarize_error
from replay_data.json_fields import Scalar, read_format_version
from replay_data.observation import RAM_SIZE
from replay_data.recording import Recording
from replay_data.sources.dopamine_format import MAX_BUFFER_ROWS, NUM_BUFFERS, PADDING
from replay_data.sources.dopamine_sidecar import BufferSidecar
from replay_data.sources.dopamine_stage import recover_log
from replay_data.storage.atomic import atomic_write, sync
from replay_data.storage.locks import exclusive_lock
from replay_data.storage.paths import check_free_space
from replay_data.storage.regular_files import read_json_file

RECORDING_FORMAT_VERSION = 2  # of recording.json

WAITING = "waiting for the first episodes to end"  # on the progress bar, while no rows are recorded

BYTES_PER_STEP = 250  # upper bound: the compressed frames of every measured game take less

RAM_BYTES_PER_STEP = RAM_SIZE + 1  # upper bound: incompressible bytes grow by less than 1%

RAM_SETTING = "ram"
"""Setting of a recording that is True if it has RAM, and missing otherwise, as in recordings of earlier versions."""


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
    """Record a player until 50 buffers of ``num_steps // 50`` rows are full.

    The log holds whole episodes, one after another, in the order in which the player yields them. The last one stops
    where the log ends, and episodes that are still being played then are dropped.

    Args:
        game: The game.
        make_player: Function that returns the player; called after all checks.
        out: Directory of recordings; the log is in ``out/{Game}/{run}/replay_logs``.
        agent: Name of the player.
        num_steps: Rows of the log, including the three that pad each episode.
        environment: Settings of the environments.
        seed: Seed of the player.
        settings: Settings of the player, by name. A resumed recording must have the same settings, agent, game,
            ``num_steps``, environment and seed. Its ``precision`` may change; each buffer keeps its own. `RAM_SETTING`
            must say whether the player's episodes have RAM.
        run: Index of the recording among those of the game.
        resume: Continue after the last complete buffer, or start if there is no recording. Episodes that were being
            played are lost; the environments start new ones.
        show_progress: Whether to show a progress bar, in rows/s, on standard error.

    Returns:
        The sidecars of all buffers.

    Raises:
        InputError: If a parameter is out of range, if the recording exists and ``resume`` is false, if the resumed
            recording has other settings, or if the disk is too small.
        OSError: If writing fails. Complete buffers are kept, as they are after Ctrl-C; without any, nothing is.
    """
    rows = num_steps // NUM_BUFFERS
    if rows < PADDING + 2:
        raise InputError(f"`num_steps` must be at least {NUM_BUFFERS * (PADDING + 2)}, not {num_steps}")
    if run < 0:
        raise InputError(f"`run` must be at least 0, not {run}")
    if not 0 <= seed < 2**63:
        raise InputError(f"`seed` must be between 0 and 2**63 - 1, not {seed}")
    directory = out / game.name / str(run)
    recording = Recording(
        agent=agent,
        game=game.name,
        num_steps=num_steps,
        seed=seed,
        sticky_actions=environment.sticky_actions,
        max_frames=environment.max_frames,
        action_meanings=tuple(action_meanings(game)),
        rom_sha256=rom_sha256(game, environment.rom),
        settings=settings,
        versions={name: importlib.metadata.version(name) for name in ("atari-dt", "ale-py", "numpy", "torch")},
    )
    _check_recording(directory, recording, resume)
    try:
        with _recording_directory(directory, recording):
            checkpoint = RecorderCheckpoint.read(directory)
            bytes_per_step = BYTES_PER_STEP + (RAM_BYTES_PER_STEP if settings.get(RAM_SETTING) else 0)
            check_free_space(directory, (NUM_BUFFERS - checkpoint.num_complete) * rows * bytes_per_step)
            if rows > MAX_BUFFER_ROWS:
                raise InputError(f"`num_steps` must be at most {NUM_BUFFERS * MAX_BUFFER_ROWS:,}, not {num_steps:,}")
            recover_log(directory / LOGS_DIRECTORY, checkpoint.stage, checkpoint.num_complete)
            if checkpoint.num_complete < NUM_BUFFERS:
                player = make_player()
                if checkpoint.player_state is not None:
                    player.restore(checkpoint.player_state)
                with BufferWriter(directory, rows, recording, checkpoint) as writer:
                    _play(player, writer, directory, checkpoint, num_steps, game.name, show_progress)
    except KeyboardInterrupt:
        num_complete = len(read_recording(directory))
        kept = f"kept {num_complete} of {NUM_BUFFERS} buffers in {directory}; continue with `resume`"
        raise KeyboardInterrupt(kept if num_complete else "nothing was kept") from None
    return read_recording(directory)


def read_recording(directory: Path) -> list[BufferSidecar]:
    """Return the sidecars of a recording's complete buffers; ``directory`` is ``{out}/{Game}/{run}``."""
    sidecars = (BufferSidecar.read(directory / LOGS_DIRECTORY, index) for index in range(NUM_BUFFERS))
    return [sidecar for sidecar in sidecars if sidecar is not None]


def read_recorded_settings(directory: Path) -> Mapping[str, Scalar] | None:
    """Return the settings of the player of a recording; None if the directory holds no recording, or a damaged one."""
    try:
        return _read_recording_file(directory).settings
    except _READING_ERRORS:
        return None


def _read_recording_file(directory: Path) -> Recording:
    """Read ``recording.json``; raise one of `_READING_ERRORS` if it is missing or damaged."""
    content = read_json_file(directory / RECORDING_FILE)
    read_format_version(content, RECORDING_FORMAT_VERSION)
    return Recording.from_json(content)


_READING_ERRORS = (InputError, OSError, ValueError, KeyError, TypeError)


def _play(
    player: Player,
    writer: BufferWriter,
    directory: Path,
    checkpoint: RecorderCheckpoint,
    num_steps: int,
    game: str,
    show_progress: bool,
) -> None:
    """Pass rollouts from the player to the writer until the log is full; log scores and metrics to TensorBoard."""
    # Imported here because the worker processes of scripted players import this file and need no PyTorch.
    from torch.utils.tensorboard import SummaryWriter

    from replay_data.progress import ProgressBar

    num_played, start_time, scores = checkpoint.num_steps_played, time.perf_counter(), deque[float](maxlen=100)
    with (
        SummaryWriter(directory / "tensorboard", purge_step=num_played + 1 if num_played else None) as board,
        ProgressBar(
            total=num_steps,
            initial=min(writer.add_count, num_steps),
            unit="step",
            desc=f"playing {game}",
            disable=not show_progress,
        ) as bar,
        closing(player.play()) as rollouts,
    ):
        bar.set_postfix_str(WAITING)
        for rollout in rollouts:
            num_played += rollout.num_steps
            for episode, details in rollout.episodes:
                scores.append(float(episode.raw_rewards.sum()))
                step = int(details.get("played", num_played))
                board.add_scalar("score", scores[-1], step)
                board.add_scalar("return", float(episode.raw_rewards.clip(-1, 1).sum()), step)
            elapsed = time.perf_counter() - start_time
            speed = (num_played - checkpoint.num_steps_played) / elapsed
            metrics = {**rollout.metrics, "steps_per_s": speed, "writer_share": writer.busy_seconds / elapsed}
            for name, value in metrics.items():
                board.add_scalar(name, value, num_played)
            complete = writer.add(rollout.episodes, num_played, player.state)
            state = f"score={np.mean(scores):.1f}" if scores else WAITING
            bar.set_postfix_str(f"{state}, playing {speed:,.0f} steps/s", refresh=False)
            bar.update(min(writer.add_count, num_steps) - bar.n)
            if complete:
                break
        writer.finish()


def _check_recording(directory: Path, recording: Recording, resume: bool) -> None:
    """Check that a recording can start, or resume, in ``directory``.

    Raises:
        InputError: If the directory holds something else, a recording that is not to be resumed, or one with other
            settings.
    """
    if not directory.exists() or all(entry.name.startswith(".recording") for entry in directory.iterdir()):
        return  # a process that was killed early may have left a partial recording.json
    if not resume:
        raise InputError(
            f"{directory} exists already; choose another `out` or `run`, delete it, or continue it with `resume`"
        )
    try:
        saved = _read_recording_file(directory)
    except _READING_ERRORS as error:
        raise InputError(
            f"{directory} is not a recording that can be resumed: {RECORDING_FILE} is missing or damaged "
            f"({summarize_error(error)}); choose another `out` or `run`"
        ) from error
    if saved.agent == recording.agent and (changes := _describe_policy_changes(saved, recording)):
        raise InputError(f"{directory} was recorded with other `policies`: {changes}; resume it with the same ones")
    before, now = ({RAM_SETTING: False, **each.flat()} for each in (saved, recording))
    if differences := describe_differences(before, now, ignore=("versions", *ARITHMETIC_SETTINGS)):
        raise InputError(f"{directory} was recorded with other settings: {differences}; resume it with the same ones")
    if _has_buffers(directory) and not list_checkpoints(directory):
        raise InputError(
            f"{directory} has no checkpoint to resume from; its buffers can be used, but the recording cannot continue"
        )


def _describe_policy_changes(saved: Recording, current: Recording) -> str:
    """Return how the trained policies of a resumed recording differ from those so far; empty if they do not."""

    def digests(recording: Recording) -> dict[str, list[Scalar | None]]:
        found: dict[str, list[Scalar | None]] = {}
        for index, name in enumerate(recording.policies):
            found.setdefault(name, []).append(recording.settings.get(f"policy_{index}_sha256"))
        return found

    before, after = digests(saved), digests(current)
    if before == after:
        return "" if saved.policies == current.policies else "their order has changed"
    changes = [f"{name} is missing" for name in before if name not in after]
    changes += [f"{name} is new" for name in after if name not in before]
    changes += [f"{name} has changed" for name in after if before.get(name, after[name]) != after[name]]
    return ", ".join(changes)


@contextmanager
def _recording_directory(directory: Path, recording: Recording) -> Iterator[None]:
    """Create and lock the directory of a recording; remove it after an error if no buffer is complete."""
    created = [parent for parent in (directory.parent, directory.parent.parent) if not parent.exists()]
    directory.mkdir(parents=True, exist_ok=True)
    with exclusive_lock(directory, "recording in"):
        try:
            if not (directory / RECORDING_FILE).exists():
                content = {"format_version": RECORDING_FORMAT_VERSION, **recording.to_json()}
                atomic_write(directory / RECORDING_FILE, json.dumps(content, indent=2) + "\n")
            for name in (LOGS_DIRECTORY, CHECKPOINTS_DIRECTORY):
                (directory / name).mkdir(exist_ok=True)
            for parent in (directory, directory.parent, directory.parent.parent):
                sync(parent)
            for leftover in (directory / CHECKPOINTS_DIRECTORY).glob(".*"):  # of killed processes
                shutil.rmtree(leftover)
            yield
        except BaseException:
            if not _has_buffers(directory) and not list_checkpoints(directory):
                shutil.rmtree(directory, ignore_errors=True)
                for parent in created:
                    with suppress(OSError):  # another process may have put files there
                        parent.rmdir()
            raise


def _has_buffers(directory: Path) -> bool:
    return any((directory / LOGS_DIRECTORY).glob("*_ckpt.*"))
