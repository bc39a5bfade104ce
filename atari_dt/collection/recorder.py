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
import zipfile
import zlib
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from isal import igzip

from atari_dt.environment import EnvironmentConfig, action_meanings, rom_sha256
from atari_dt.games import Game
from replay_data import InputError
from replay_data.dopamine_log import NUM_BUFFERS, PADDING, DopamineLogWriter, RecordedBuffer, settle_log
from replay_data.episode import Episode
from replay_data.files import check_free_space, held, sync, whole_directory, write_whole
from replay_data.trajectory_store import FRAME_SHAPE

BYTES_PER_STEP = 250  # more than any game's frames were seen to take, compressed


@dataclass(frozen=True)
class PackedEpisode:
    """An `Episode` whose frames are compressed: 27,000 steps of 32 games would be 6 GB.

    Attributes:
        frames: one or more members of gzip; what they hold is uint8 ``[T, 84, 84]``.
        actions: uint8 ``[T]``.
        raw_rewards: float32 ``[T]``; what followed each action, before clipping.
        terminal: whether the game was over after the last step; otherwise a time limit cut the episode.
    """

    frames: bytes
    actions: npt.NDArray[np.uint8]
    raw_rewards: npt.NDArray[np.float32]
    terminal: bool

    def __len__(self) -> int:
        return len(self.actions)

    @classmethod
    def pack(cls, episode: Episode) -> PackedEpisode:
        """Compress the frames of an episode whose raw rewards are known."""
        assert episode.raw_rewards is not None
        return cls(_compress(episode.frames), episode.actions, episode.raw_rewards, episode.terminal)

    def unpack(self) -> Episode:
        """Return what was packed, with the rewards clipped to [-1, 1]."""
        frames = np.frombuffer(igzip.decompress(self.frames), dtype=np.uint8).reshape(-1, *FRAME_SHAPE)
        return Episode(frames, self.actions, self.raw_rewards.clip(-1, 1), self.raw_rewards, self.terminal)


def _compress(frames: npt.NDArray[np.uint8]) -> bytes:
    return igzip.compress(np.ascontiguousarray(frames), 1, mtime=0)


@dataclass(frozen=True)
class Played:
    """What a player has played since it yielded last.

    Attributes:
        episodes: those that ended, in that order, each with what its record should say of it.
        steps: how many it played, in all games.
        values: numbers to show.
    """

    episodes: Sequence[tuple[PackedEpisode, Mapping[str, float]]]
    steps: int
    values: Mapping[str, float]


class OpenEpisodes:
    """Turns steps of N parallel games into episodes, in the order they ended."""

    def __init__(self, num_games: int):
        self._open: list[list[PackedEpisode]] = [[] for _ in range(num_games)]

    def add(
        self,
        frames: npt.NDArray[np.uint8],
        actions: npt.NDArray[np.uint8],
        raw_rewards: npt.NDArray[np.float32],
        terminal: npt.NDArray[np.bool_],
        cut: npt.NDArray[np.bool_],
    ) -> list[tuple[PackedEpisode, int]]:
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
        ended: list[tuple[int, PackedEpisode]] = []
        for game, pieces in enumerate(self._open):
            start = 0
            for last in [*np.flatnonzero(terminal[:, game] | cut[:, game]).tolist(), None]:
                part = slice(start, None if last is None else last + 1)
                if len(actions[part]):
                    content = _compress(frames[part, game])
                    over = last is not None and bool(terminal[last, game])
                    pieces.append(
                        PackedEpisode(content, actions[part, game].copy(), raw_rewards[part, game].copy(), over)
                    )
                if last is not None:
                    ended.append((last * num_games + game + 1, _joined(pieces)))
                    pieces.clear()
                    start = last + 1
        return [(episode, at) for at, episode in sorted(ended, key=lambda end: end[0])]


def _joined(pieces: Sequence[PackedEpisode]) -> PackedEpisode:
    """The episode that these, one after another, are."""
    return PackedEpisode(
        b"".join(piece.frames for piece in pieces),
        np.concatenate([piece.actions for piece in pieces]),
        np.concatenate([piece.raw_rewards for piece in pieces]),
        pieces[-1].terminal,
    )


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
    if run < 0:
        raise InputError(f"run must be at least 0, not {run}")
    if not 0 <= seed < 2**63:
        raise InputError(f"seed must lie between 0 and 2**63 - 1, not {seed}")
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
        "versions": {name: importlib.metadata.version(name) for name in ("atari-dt", "ale-py", "numpy", "torch")},
    }
    _check_recording(directory, recording, resume)
    try:
        with _recording_directory(directory, recording):
            checkpoint = _Checkpoint.read(directory)
            check_free_space(directory, (NUM_BUFFERS - checkpoint.whole) * rows * BYTES_PER_STEP)
            settle_log(directory / _LOGS, checkpoint.stage, checkpoint.whole)
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
    found = (RecordedBuffer.read(directory / _LOGS, number) for number in range(NUM_BUFFERS))
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
        tqdm(
            total=num_steps,
            initial=min(writer.add_count, num_steps),
            unit="step",
            desc=f"playing {name}",
            mininterval=0.5,
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


def _check_recording(directory: Path, recording: Mapping[str, Any], resume: bool) -> None:
    """Raise InputError if there is a recording already, or, to be resumed, one with other settings."""
    path = directory / _ABOUT
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
    if _has_buffers(directory) and not _checkpoints(directory):
        raise InputError(f"{directory} has no checkpoint to go on from; its buffers can be used")


@contextmanager
def _recording_directory(directory: Path, recording: Mapping[str, Any]) -> Iterator[None]:
    """Make and hold the directory of a recording; remove it again if no buffer was completed."""
    made = [parent for parent in (directory.parent, directory.parent.parent) if not parent.exists()]
    directory.mkdir(parents=True, exist_ok=True)
    with held(directory, "recording in"):
        try:
            if not (directory / _ABOUT).exists():
                write_whole(directory / _ABOUT, json.dumps(recording, indent=2) + "\n")
            for part in (_LOGS, _CHECKPOINTS):
                (directory / part).mkdir(exist_ok=True)
            for parent in (directory, directory.parent, directory.parent.parent):
                sync(parent)
            for left in (directory / _CHECKPOINTS).glob(".*"):  # by sessions that were killed
                shutil.rmtree(left)
            yield
        except BaseException:
            if not _has_buffers(directory) and not _checkpoints(directory):
                shutil.rmtree(directory, ignore_errors=True)
                for parent in made:
                    with suppress(OSError):  # somebody else's files are in it
                        parent.rmdir()
            raise


_ABOUT, _LOGS, _CHECKPOINTS = "recording.json", "replay_logs", "checkpoints"


def _has_buffers(directory: Path) -> bool:
    return any((directory / _LOGS).glob("*_ckpt.*"))


def _checkpoints(directory: Path) -> list[Path]:
    return sorted((directory / _CHECKPOINTS).glob("buffers-*"))


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
    episodes: Sequence[tuple[PackedEpisode, Mapping[str, float]]] = ()
    played: int = 0
    stage: str | None = None
    player: bytes | None = None

    @classmethod
    def read(cls, directory: Path) -> _Checkpoint:
        """Read the last one of a recording.

        Raises:
            InputError: if it is damaged.
        """
        paths = _checkpoints(directory)
        if not paths:
            return cls()
        path = paths[-1]
        try:
            about = json.loads((path / "progress.json").read_text())
            with (path / "episodes.npz").open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                frames, sizes, actions, raw_rewards, lengths, terminal = (
                    arrays[name] for name in ("frames", "sizes", "actions", "raw_rewards", "lengths", "terminal")
                )
            ends, stops, details = np.cumsum(lengths), np.cumsum(sizes), about.pop("details")
            episodes = []
            for end, length, stop, size, over, each in zip(ends, lengths, stops, sizes, terminal, details, strict=True):
                part = slice(end - length, end)
                content = frames[stop - size : stop].tobytes()
                episode = PackedEpisode(content, actions[part], raw_rewards[part], bool(over))
                if not len(episode.unpack().frames) == len(episode) == len(episode.raw_rewards):
                    raise ValueError("the lengths of an episode contradict each other")
                episodes.append((episode, each))
            return cls(**about, episodes=episodes, player=(path / "player").read_bytes())
        except _DAMAGE as error:
            raise InputError(
                f"the checkpoint {path} is damaged ({type(error).__name__}: {error}); the recording cannot go on, but "
                "its buffers can be used"
            ) from error

    def write(self, directory: Path) -> None:
        """Write it whole."""
        assert self.player is not None
        about = {"whole": self.whole, "add_count": self.add_count, "played": self.played, "stage": self.stage}
        episodes = [episode for episode, _ in self.episodes]
        with whole_directory(directory / _CHECKPOINTS / f"buffers-{self.whole:02d}") as partial:
            (partial / "player").write_bytes(self.player)
            content = {**about, "details": [dict(details) for _, details in self.episodes]}
            (partial / "progress.json").write_text(json.dumps(content, indent=2) + "\n")
            np.savez(
                partial / "episodes.npz",
                frames=np.frombuffer(b"".join(episode.frames for episode in episodes), dtype=np.uint8),
                sizes=np.array([len(episode.frames) for episode in episodes], dtype=np.int64),
                actions=np.concatenate([np.zeros(0, np.uint8), *(episode.actions for episode in episodes)]),
                raw_rewards=np.concatenate([np.zeros(0, np.float32), *(each.raw_rewards for each in episodes)]),
                lengths=np.array([len(episode) for episode in episodes], dtype=np.int64),
                terminal=np.array([episode.terminal for episode in episodes], dtype=np.bool_),
            )

    def remove_older(self, directory: Path) -> None:
        """Remove those before it."""
        for old in _checkpoints(directory):
            if old.name != f"buffers-{self.whole:02d}":
                hidden = old.with_name(f".{old.name}")
                old.rename(hidden)  # at once, so that no half of it is ever taken for a checkpoint
                shutil.rmtree(hidden, ignore_errors=True)


_DAMAGE = (  # what reading a checkpoint can raise, beside what isal raises (a zlib.error)
    *(OSError, EOFError, ValueError, KeyError, TypeError, NotImplementedError),
    *(zipfile.BadZipFile, zlib.error),
)


class _BufferWriter:
    """Writes episodes to the log, and a checkpoint whenever buffers are complete, in a thread of its own.

    Attributes:
        add_count: rows added to the log, written or not.
        seconds: for which the thread has worked.
    """

    def __init__(self, directory: Path, rows: int, recording: Mapping[str, Any], checkpoint: _Checkpoint):
        self.add_count, self.seconds = checkpoint.add_count, 0.0
        self._directory, self._rows = directory, rows
        self._log = DopamineLogWriter(
            directory / _LOGS,
            rows,
            recording=recording,
            num_buffers=NUM_BUFFERS,
            hold=True,
            whole=checkpoint.whole,
            add_count=checkpoint.add_count,
        )
        self._thread = ThreadPoolExecutor(1)
        self._tasks: deque[Future[None]] = deque()
        self._complete, self._failed = checkpoint.whole, False
        self._submit(checkpoint.episodes, checkpoint.played, None)  # with which no buffer is complete yet

    def __enter__(self) -> _BufferWriter:
        return self

    def __exit__(self, *error: Any) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._log.abandon()  # what was not completed is played again by whoever resumes

    def add(
        self, episodes: Sequence[tuple[PackedEpisode, Mapping[str, float]]], played: int, state: Callable[[], bytes]
    ) -> bool:
        """Add episodes; return whether all buffers are complete with them.

        Args:
            episodes: with what the JSON file says of them.
            played: steps that were played, in all games.
            state: the player's, asked for when a buffer is complete.
        """
        rows = self.add_count + sum(PADDING + len(episode) for episode, _ in episodes)
        complete = min((rows + 1) // self._rows, NUM_BUFFERS)
        snapshot = state() if complete > self._complete else None
        self._complete = complete
        self._submit(episodes, played, snapshot)
        while len(self._tasks) > 4 or (self._tasks and self._tasks[0].done()):
            self._tasks.popleft().result()
        return complete == NUM_BUFFERS

    def _submit(
        self, episodes: Sequence[tuple[PackedEpisode, Mapping[str, float]]], played: int, snapshot: bytes | None
    ) -> None:
        self.add_count += sum(PADDING + len(episode) for episode, _ in episodes)
        if episodes:
            self._tasks.append(self._thread.submit(self._write, episodes, played, snapshot))

    def finish(self) -> None:
        """Wait until everything is written."""
        while self._tasks:
            self._tasks.popleft().result()

    def _write(
        self, episodes: Sequence[tuple[PackedEpisode, Mapping[str, float]]], played: int, snapshot: bytes | None
    ) -> None:
        if self._failed:  # an episode is missing already
            return
        self._failed, start = True, time.perf_counter()
        starts = []
        for packed, details in episodes:
            starts.append(self._log.add_count)
            episode = packed.unpack()
            self._log.append(
                episode.frames,
                episode.actions,
                episode.rewards,
                terminal=episode.terminal,
                raw_rewards=episode.raw_rewards,
                details=details,
            )
        if snapshot is not None:
            self._show_buffers(episodes, starts, played, snapshot)
        self._failed = False
        self.seconds += time.perf_counter() - start

    def _show_buffers(
        self,
        episodes: Sequence[tuple[PackedEpisode, Mapping[str, float]]],
        starts: Sequence[int],
        played: int,
        snapshot: bytes,
    ) -> None:
        whole = self._log.num_complete
        # Buffers are complete since one of these episodes; those before that one are in them to their end.
        end = whole * self._rows - 1
        fits = [start + PADDING + len(episode) <= end for start, (episode, _) in zip(starts, episodes, strict=True)]
        first = len(episodes) if whole == NUM_BUFFERS else sum(fits)
        checkpoint = _Checkpoint(
            whole=whole,
            add_count=[*starts, self._log.add_count][first],
            episodes=episodes[first:],
            played=played,
            stage=self._log.stage.name if self._log.stage else None,
            player=snapshot,
        )
        self._log.publish(lambda: checkpoint.write(self._directory))
        checkpoint.remove_older(self._directory)
