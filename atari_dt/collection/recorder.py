"""What players play becomes a replay log in Dopamine's format, whole and resumable whatever happens.

A recording is a directory ``{out}/{Game}/{run}`` with the log in ``replay_logs``, ``recording.json`` (who plays, and
how), TensorBoard's files, and one ``checkpoints/buffers-B``: the player's state when B buffers were complete, and the
episodes at their end that had ended by then but did not fit in. What is on the disk is at all times the state of a
checkpoint: it is written first, and the buffers it speaks of are made visible after it, or by whoever resumes.
"""

from __future__ import annotations

import json
import shutil
import time
import zipfile
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import ale_py
import numpy as np
import numpy.typing as npt
from isal import isal_zlib

from atari_dt.environment import EnvironmentConfig, action_meanings, rom_sha256
from atari_dt.games import Game
from replay_data import InputError
from replay_data.dopamine_log import NUM_BUFFERS, PADDING, DopamineLogWriter, RecordedBuffer, settle_log
from replay_data.episode import Episode
from replay_data.files import check_free_space, held, whole_directory, write_whole

BYTES_PER_STEP = 250  # more than any game's frames were seen to take, compressed


@dataclass(frozen=True)
class Played:
    """What a player has played since it yielded last.

    Attributes:
        episodes: those that ended, in that order, each with what its record should say of it.
        steps: how many it played, in all games.
        values: numbers to show.
    """

    episodes: Sequence[tuple[Episode, Mapping[str, float]]]
    steps: int
    values: Mapping[str, float]


class OpenEpisodes:
    """Turns steps of N parallel games into episodes, in the order they ended.

    Frames of episodes that go on wait compressed: 27,000 steps of 32 games would be 6 GB.
    """

    def __init__(self, num_games: int):
        self._open: list[list[_Piece]] = [[] for _ in range(num_games)]

    def add(
        self,
        frames: npt.NDArray[np.uint8],
        actions: npt.NDArray[np.uint8],
        raw_rewards: npt.NDArray[np.float32],
        terminal: npt.NDArray[np.bool_],
        cut: npt.NDArray[np.bool_],
    ) -> list[tuple[Episode, int]]:
        """Add T steps of every game.

        Args:
            frames: uint8 ``[T, N, 84, 84]``.
            actions: uint8 ``[T, N]``.
            raw_rewards: float32 ``[T, N]``.
            terminal: bool ``[T, N]``, where a game was over after the step.
            cut: bool ``[T, N]``, where a time limit ended the episode.

        Returns:
            The episodes that ended, each with the number of steps, of all games, up to its last one.
        """
        num_games = len(self._open)
        ended: list[tuple[int, Episode]] = []
        for game, pieces in enumerate(self._open):
            start = 0
            for last in [*np.flatnonzero(terminal[:, game] | cut[:, game]).tolist(), None]:
                part = slice(start, None if last is None else last + 1)
                if len(actions[part]):
                    content = isal_zlib.compress(np.ascontiguousarray(frames[part, game]), 1)
                    pieces.append(_Piece(content, actions[part, game].copy(), raw_rewards[part, game].copy()))
                if last is not None:
                    ended.append((last * num_games + game + 1, _episode(pieces, bool(terminal[last, game]))))
                    pieces.clear()
                    start = last + 1
        return [(episode, at) for at, episode in sorted(ended, key=lambda end: end[0])]


@dataclass(frozen=True)
class _Piece:
    """Successive steps of an episode, the frames compressed."""

    frames: bytes
    actions: npt.NDArray[np.uint8]
    raw_rewards: npt.NDArray[np.float32]


def _episode(pieces: list[_Piece], terminal: bool) -> Episode:
    frames = np.frombuffer(b"".join(isal_zlib.decompress(piece.frames) for piece in pieces), dtype=np.uint8)
    raw = np.concatenate([piece.raw_rewards for piece in pieces])
    actions = np.concatenate([piece.actions for piece in pieces])
    return Episode(frames.reshape(-1, 84, 84), actions, raw.clip(-1, 1), raw, terminal)


class Player(Protocol):
    """Who plays."""

    def play(self) -> Generator[Played, None, None]:
        """Play for ever."""

    def state(self) -> bytes:
        """What `restore` goes on from, after what `play` yielded last."""

    def restore(self, state: bytes) -> None:
        """Go on from a `state`."""


def record(
    game: Game,
    make_player: Callable[[], Player],
    out: Path,
    *,
    agent: str,
    num_steps: int,
    environment: EnvironmentConfig,
    seed: int,
    settings: Mapping[str, Any],
    run: int = 1,
    resume: bool = False,
    show_progress: bool = True,
) -> list[RecordedBuffer]:
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
    for name, value, least in (("run", run, 0), ("seed", seed, 0)):
        if value < least:
            raise InputError(f"{name} must be at least {least}, not {value}")
    directory = out / game.name / str(run)
    recording = {
        "game": game.name,
        "agent": agent,
        "num_steps": num_steps,
        "seed": seed,
        "sticky_actions": environment.sticky_actions,
        "max_frames": environment.max_frames,
        "action_meanings": action_meanings(game),
        "rom_sha256": rom_sha256(game, environment),
        **settings,
        "versions": {"ale_py": ale_py.__version__, "numpy": np.__version__},
    }
    _check_recording(directory, recording, resume)
    try:
        with _recording_directory(directory, recording):
            checkpoint = _Checkpoint.read(directory)
            check_free_space(directory, (NUM_BUFFERS - checkpoint.whole) * rows * BYTES_PER_STEP)
            settle_log(directory / "replay_logs", checkpoint.stage, checkpoint.whole)
            if checkpoint.whole < NUM_BUFFERS:
                player = make_player()
                if checkpoint.player is not None:
                    player.restore(checkpoint.player)
                with _BufferWriter(directory, rows, recording, checkpoint) as writer:
                    _play(player, writer, directory, checkpoint, num_steps, game.name, show_progress)
    except KeyboardInterrupt:
        whole = len(read_recording(directory))
        there = f"{whole} of {NUM_BUFFERS} buffers are in {directory}; --resume goes on after them"
        raise KeyboardInterrupt(there if whole else "nothing was kept") from None
    return read_recording(directory)


def read_recording(directory: Path) -> list[RecordedBuffer]:
    """What the JSON files beside a recording's buffers say; ``directory`` is ``{out}/{Game}/{run}``."""
    found = (RecordedBuffer.read(directory / "replay_logs", number) for number in range(NUM_BUFFERS))
    return [buffer for buffer in found if buffer is not None]


def _play(
    player: Player,
    writer: _BufferWriter,
    directory: Path,
    checkpoint: _Checkpoint,
    num_steps: int,
    name: str,
    show_progress: bool,
) -> None:
    # Imported here, because the processes of scripted players import this file, and have no use for PyTorch.
    from torch.utils.tensorboard import SummaryWriter
    from tqdm import tqdm

    played, start, scores = checkpoint.played, time.perf_counter(), deque[float](maxlen=100)
    with (
        SummaryWriter(directory / "tensorboard", purge_step=played + 1 if played else None) as board,
        tqdm(total=num_steps, unit="step", desc=f"playing {name}", mininterval=0.5, disable=not show_progress) as bar,
        closing(player.play()) as rounds,
    ):
        bar.update(min(writer.add_count, num_steps))
        for part in rounds:
            played += part.steps
            for episode, details in part.episodes:
                assert episode.raw_rewards is not None
                scores.append(float(episode.raw_rewards.sum()))
                at = int(details.get("played", played))
                board.add_scalar("score", scores[-1], at)
                board.add_scalar("return", float(episode.rewards.sum()), at)
            for key, value in part.values.items():
                board.add_scalar(key, value, played)
            complete = writer.add(part.episodes, played, player.state)
            speed = (played - checkpoint.played) / (time.perf_counter() - start)
            score = f"{np.mean(scores):.1f}" if scores else "-"
            bar.set_postfix_str(f"score={score}, playing {speed:,.0f} steps/s", refresh=False)
            bar.update(min(writer.add_count, num_steps) - bar.n)
            if complete:
                break
        writer.finish()


def _check_recording(directory: Path, recording: Mapping[str, Any], resume: bool) -> None:
    """Raise InputError if there is a recording already, or, to be resumed, one with other settings."""
    path = directory / "recording.json"
    if not directory.exists() or all(entry.name.startswith(".recording") for entry in directory.iterdir()):
        return  # it was killed, if anything, before it had written anything
    if not resume:
        raise InputError(
            f"{directory} exists already; choose another --out or --run, delete it, or go on from it with --resume"
        )
    try:
        there = dict(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{directory} is no recording that could be resumed ({path.name} cannot be read)") from error
    now = json.loads(json.dumps(recording))
    fields = [
        f"{name} ({there.get(name)} there, {now.get(name)} now)"
        for name in {**there, **now}
        if name != "versions" and there.get(name) != now.get(name)
    ]
    if fields:
        raise InputError(f"{directory} was recorded with other settings: {', '.join(fields)}; resume it with those")


@contextmanager
def _recording_directory(directory: Path, recording: Mapping[str, Any]) -> Iterator[None]:
    """Make and hold the directory of a recording; remove it again if no buffer was completed."""
    made = [parent for parent in (directory.parent, directory.parent.parent) if not parent.exists()]
    directory.mkdir(parents=True, exist_ok=True)
    with held(directory, "recording in"):
        try:
            if not (directory / "recording.json").exists():
                write_whole(directory / "recording.json", json.dumps(recording, indent=2) + "\n")
            yield
        except BaseException:
            if not any(directory.glob("checkpoints/buffers-*")):
                shutil.rmtree(directory, ignore_errors=True)
                for parent in made:
                    with suppress(OSError):  # somebody else's files are in it
                        parent.rmdir()
            raise


@dataclass(frozen=True)
class _Checkpoint:
    """Where a recording stands.

    Attributes:
        whole: buffers that are complete.
        add_count: rows before the first of ``episodes``.
        episodes: those that had ended, but are not, or not to their end, in these buffers.
        played: steps that were played, in all games.
        stage: name of the hidden directory that buffers may still be in.
        player: its state; None before it has begun.
    """

    whole: int = 0
    add_count: int = 0
    episodes: Sequence[tuple[Episode, Mapping[str, float]]] = ()
    played: int = 0
    stage: str | None = None
    player: bytes | None = None

    @classmethod
    def read(cls, directory: Path) -> _Checkpoint:
        """Read the last one of a recording.

        Raises:
            InputError: if it is damaged.
        """
        paths = sorted((directory / "checkpoints").glob("buffers-*"))
        if not paths:
            return cls()
        path = paths[-1]
        try:
            about = json.loads((path / "progress.json").read_text())
            with (path / "episodes.npz").open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                frames, actions, raw, lengths, terminal = (
                    arrays[name] for name in ("frames", "actions", "raw_rewards", "lengths", "terminal")
                )
            details, ends = about.pop("details"), np.cumsum(lengths)
            parts = [slice(end - length, end) for length, end in zip(lengths, ends, strict=True)]
            episodes = [
                (Episode(frames[part], actions[part], raw[part].clip(-1, 1), raw[part], bool(last)), each)
                for part, last, each in zip(parts, terminal, details, strict=True)
            ]
            return cls(**about, episodes=episodes, player=(path / "player").read_bytes())
        except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
            raise InputError(
                f"the checkpoint {path} is damaged ({type(error).__name__}: {error}); the recording cannot go on, but "
                "its buffers can be used"
            ) from error

    def write(self, directory: Path) -> None:
        """Write it whole, and remove those before it."""
        assert self.player is not None
        about = {"whole": self.whole, "add_count": self.add_count, "played": self.played, "stage": self.stage}
        episodes = [episode for episode, _ in self.episodes]
        path = directory / "checkpoints" / f"buffers-{self.whole:02d}"
        with whole_directory(path) as partial:
            (partial / "player").write_bytes(self.player)
            content = {**about, "details": [dict(details) for _, details in self.episodes]}
            (partial / "progress.json").write_text(json.dumps(content, indent=2) + "\n")
            np.savez_compressed(
                partial / "episodes.npz",
                frames=np.concatenate([np.zeros((0, 84, 84), np.uint8), *(episode.frames for episode in episodes)]),
                actions=np.concatenate([np.zeros(0, np.uint8), *(episode.actions for episode in episodes)]),
                raw_rewards=np.concatenate([np.zeros(0, np.float32), *(_raw(episode) for episode in episodes)]),
                lengths=np.array([len(episode) for episode in episodes], dtype=np.int64),
                terminal=np.array([episode.terminal for episode in episodes], dtype=np.bool_),
            )
        for old in sorted(path.parent.glob("buffers-*")):
            if old != path:
                hidden = old.with_name(f".{old.name}.removed")
                old.rename(hidden)  # at once, so that no half of it is ever taken for a checkpoint
                shutil.rmtree(hidden)


class _BufferWriter:
    """Writes episodes to the log, and a checkpoint whenever buffers are complete, in a thread of its own.

    Attributes:
        add_count: rows added to the log, written or not.
    """

    def __init__(self, directory: Path, rows: int, recording: Mapping[str, Any], checkpoint: _Checkpoint):
        self.add_count = checkpoint.add_count
        self._directory, self._rows = directory, rows
        self._log = DopamineLogWriter(
            directory / "replay_logs",
            rows,
            recording=recording,
            num_buffers=NUM_BUFFERS,
            hold=True,
            whole=checkpoint.whole,
            add_count=checkpoint.add_count,
        )
        self._recent: deque[tuple[int, Episode, Mapping[str, float]]] = deque()  # that go beyond the last whole buffer
        self._thread = ThreadPoolExecutor(1)
        self._tasks: deque[Future[None]] = deque()
        self._complete, self._failed = checkpoint.whole, False
        if checkpoint.episodes:
            self.add(checkpoint.episodes, checkpoint.played, lambda: checkpoint.player or b"")

    def __enter__(self) -> _BufferWriter:
        return self

    def __exit__(self, *error: Any) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)
        # What was not completed is dropped, and played again by whoever resumes.
        self._log.__exit__(RuntimeError, RuntimeError(), None)

    def add(
        self, episodes: Sequence[tuple[Episode, Mapping[str, float]]], played: int, state: Callable[[], bytes]
    ) -> bool:
        """Add episodes; return whether all buffers are complete with them.

        Args:
            episodes: with what the JSON file says of them.
            played: steps that were played, in all games.
            state: the player's, asked for when a buffer is complete.
        """
        self.add_count += sum(PADDING + len(episode) for episode, _ in episodes)
        complete = min((self.add_count + 1) // self._rows, NUM_BUFFERS)
        snapshot = state() if complete > self._complete else None
        self._complete = complete
        if episodes:
            self._tasks.append(self._thread.submit(self._write, episodes, played, snapshot))
        while len(self._tasks) > 4 or (self._tasks and self._tasks[0].done()):
            self._tasks.popleft().result()
        return complete == NUM_BUFFERS

    def finish(self) -> None:
        """Wait until everything is written."""
        while self._tasks:
            self._tasks.popleft().result()

    def _write(
        self, episodes: Sequence[tuple[Episode, Mapping[str, float]]], played: int, snapshot: bytes | None
    ) -> None:
        if self._failed:  # an episode is missing already
            return
        self._failed = True
        for episode, details in episodes:
            self._recent.append((self._log.add_count, episode, details))
            self._log.append(
                episode.frames,
                episode.actions,
                episode.rewards,
                terminal=episode.terminal,
                raw_rewards=episode.raw_rewards,
                details=details,
            )
            limit = self._log.num_complete * self._rows - 1
            while self._recent and self._recent[0][0] + PADDING + len(self._recent[0][1]) <= limit:
                self._recent.popleft()
        if snapshot is not None:
            self._show_buffers(played, snapshot)
        self._failed = False

    def _show_buffers(self, played: int, snapshot: bytes) -> None:
        self._log.flush()
        whole = self._log.num_complete
        left = list(self._recent) if whole < NUM_BUFFERS else []
        _Checkpoint(
            whole=whole,
            add_count=left[0][0] if left else self._log.add_count,
            episodes=[(episode, details) for _, episode, details in left],
            played=played,
            stage=self._log.stage.name if self._log.stage else None,
            player=snapshot,
        ).write(self._directory)
        self._log.publish()


def _raw(episode: Episode) -> npt.NDArray[np.float32]:
    assert episode.raw_rewards is not None
    return episode.raw_rewards
