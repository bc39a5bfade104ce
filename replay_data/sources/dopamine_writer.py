"""Write episodes as a Dopamine replay log."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from replay_data.episode import FRAME_SHAPE
from replay_data.errors import InputError, ReplayFormatError
from replay_data.recording import Recording
from replay_data.sources.dopamine_format import CHUNK_ROWS, ELEMENTS, FILE_NAME, PADDING, STAGE_PREFIX, element_path
from replay_data.sources.dopamine_sidecar import sidecar_path
from replay_data.storage.atomic import name_file_in_errors, sync
from replay_data.storage.gzip_streams import create_gzip


class DopamineLogWriter:
    """Writes episodes as a log that Dopamine's replay buffer loads; used as a context manager.

    Buffers appear one by one, each with all its files, when the next row would no longer fit. Leaving the ``with``
    block normally writes the last one too: rows that were not played are zeros in it, and its ``add_count`` leaves them
    out. An exception leaves the buffers that were complete.

    Args:
        directory: the ``replay_logs`` directory; made if it is not there.
        rows: R, rows of a buffer, at least 5 (a stack of four and one more).
        recording: for the JSON file beside each buffer, who plays and how; without it there is none.
        num_buffers: what does not fit into so many is dropped.
        hold: buffers that are complete stay in the hidden directory `stage` until `publish` is called.
        whole, add_count: go on with a log whose first ``whole`` buffers are there; the next episode begins after so
            many rows, and what of it is in those buffers is passed over.

    Attributes:
        add_count: rows added, padding included.
        stage: a hidden directory in ``directory``.

    Raises:
        InputError: if R is too small, or a log that does not go on is there already.
    """

    def __init__(
        self,
        directory: Path,
        rows: int,
        *,
        recording: Recording | None = None,
        num_buffers: int | None = None,
        hold: bool = False,
        whole: int = 0,
        add_count: int = 0,
    ):
        if rows < PADDING + 2:
            raise InputError(f"a buffer needs at least {PADDING + 2} rows, not {rows}")
        self.directory, self.rows, self.add_count = directory, rows, add_count
        if not whole and directory.exists() and any(FILE_NAME.fullmatch(file.name) for file in directory.iterdir()):
            raise InputError(f"{directory} holds a replay log already; choose another directory or delete it first")
        self.stage: Path | None = None
        self._recording, self._num_buffers, self._hold, self._whole = recording, num_buffers, hold, whole
        self._link: dict[str, npt.NDArray[Any]] = _zero_rows(1)
        self._buffer: _BufferFiles | None = None
        self._complete: list[int] = []
        self._committed = False
        self._episodes: list[tuple[int, dict[str, Any]]] = []  # that end in buffers which are not complete

    def __enter__(self) -> DopamineLogWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._complete_last()
                self.publish()
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Drop the buffer that is not complete, and those that are held, unless `publish` has begun to show them."""
        if self._buffer is not None:
            self._buffer.close()
            self._buffer = None
        if self.stage is not None and not self._committed:
            shutil.rmtree(self.stage, ignore_errors=True)

    def _complete_last(self) -> None:
        if self.add_count and self.add_count % self.rows == 0:
            self._add(_zero_rows(1))  # a cursor on row 0 would say that all rows are fresh
        if self._buffer is not None:
            missing = self.rows - 1 - self._buffer.written
            for start in range(0, missing, CHUNK_ROWS):
                self._buffer.write(_zero_rows(min(CHUNK_ROWS, missing - start)))
            self._save()

    def append(
        self,
        frames: npt.NDArray[np.uint8],
        actions: npt.NDArray[Any],
        rewards: npt.NDArray[Any],
        *,
        terminated: bool,
        raw_rewards: npt.NDArray[Any] | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        """Append one episode of T ≥ 1 steps.

        Args:
            frames: uint8 ``[T, 84, 84]``.
            actions: integers ``[T]`` from 0 to 17.
            rewards: numbers ``[T]`` in [-1, 1].
            terminal: whether the game was over after the last step; otherwise it was cut there.
            raw_rewards: numbers ``[T]``, the rewards before they were clipped; for the JSON file.
            details: what it should say of the episode beside steps, return and score.

        Raises:
            InputError: if the arrays contradict each other; nothing is written then.
        """
        steps = len(actions)
        actions, rewards = np.asarray(actions), np.asarray(rewards, dtype=np.float32)
        if steps == 0 or frames.dtype != np.uint8 or frames.shape != (steps, *FRAME_SHAPE) or rewards.shape != (steps,):
            raise InputError(
                f"{steps} actions need as many uint8 frames [84, 84] and rewards, "
                f"not {frames.dtype} {list(frames.shape)} and {list(rewards.shape)}"
            )
        if not (np.abs(rewards) <= 1).all():
            raise InputError("a replay log holds rewards clipped to [-1, 1]")
        if (
            actions.dtype.kind not in "iu"
            or actions.shape != (steps,)
            or not (0 <= actions.min() <= actions.max() < 18)
        ):
            raise InputError("a replay log holds integer actions from 0 to 17")
        raw = rewards if raw_rewards is None else np.asarray(raw_rewards, dtype=np.float32)
        if raw.shape != (steps,) or not np.array_equal(raw.clip(-1, 1), rewards):
            raise InputError("rewards must be the raw rewards clipped to [-1, 1]")
        terminals = np.zeros(steps, dtype=np.uint8)
        terminals[-1] = terminated
        end = self.add_count + PADDING + steps
        about = {"row": (end - 1) % self.rows, "steps": steps, "return": _sum(rewards), "score": _sum(raw)}
        self._episodes.append((end // self.rows, {**about, **(details or {})}))  # a link row is in the next file
        self._add(_zero_rows(PADDING))
        elements = {"observation": frames, "action": actions, "reward": rewards, "terminal": terminals}
        self._add({**elements, "raw_reward": raw})

    def _add(self, rows: dict[str, npt.NDArray[Any]]) -> None:
        while count := len(rows["action"]):
            number, cursor = divmod(self.add_count, self.rows)
            if cursor == self.rows - 1:
                step = 1
                self._link = {element: values[:1].copy() for element, values in rows.items()}
            else:
                if number == self._num_buffers:
                    return
                step = min(count, self.rows - 1 - cursor)
                if number >= self._whole:
                    if self._buffer is None:
                        self._buffer = self._create_buffer(number)
                    self._buffer.write({element: values[:step] for element, values in rows.items()})
            self.add_count += step
            rows = {element: values[step:] for element, values in rows.items()}
            if self.add_count % self.rows == self.rows - 1 and self._buffer is not None:
                self._save()

    def _create_buffer(self, number: int) -> _BufferFiles:
        with name_file_in_errors(self.directory, self.directory):
            if self.stage is None:
                self.directory.mkdir(parents=True, exist_ok=True)
                self.stage = Path(tempfile.mkdtemp(prefix=STAGE_PREFIX, dir=self.directory))
                sync(self.directory)
            return _BufferFiles(self.directory, self.stage, number, self.rows)

    def _save(self) -> None:
        assert self._buffer is not None
        buffer, self._buffer = self._buffer, None
        recorded = None
        if self._recording is not None:
            ended = [about for number, about in self._episodes if number == buffer.number]
            recorded = {
                "format_version": 2,
                "recording": self._recording.to_json(),
                "rows": self.rows,
                "episodes": ended,
            }
        self._episodes = [(number, about) for number, about in self._episodes if number > buffer.number]
        buffer.finish(self._link, self.add_count, recorded)
        self._complete.append(buffer.number)
        if not self._hold:
            self.publish()

    @property
    def num_complete(self) -> int:
        """Buffers that are complete, those included that were there and those that are held."""
        return (self.add_count + 1) // self.rows

    def publish(self, commit: Callable[[], None] | None = None) -> None:
        """Show the buffers that are held.

        Args:
            commit: called when they are on the disk, and before the first is shown; they are safe from then on, because
                `recover_log` can show them too.
        """
        if self.stage is None or not self._complete:
            return
        with name_file_in_errors(self.directory, self.directory):
            for file in _files(self.stage, self._complete):
                if file.exists():
                    sync(file)
            sync(self.stage)
        if commit is not None:
            commit()
        self._committed = True
        with name_file_in_errors(self.directory, self.directory):
            _publish(self.directory, self.stage, self._complete)
        self._committed, self._complete = False, []


def recover_log(directory: Path, stage: str | None, whole: int) -> None:
    """Bring a log that is recorded here into order after its writer was killed.

    Args:
        directory: the ``replay_logs`` directory.
        stage: name of the writer's hidden directory, whose buffers below ``whole`` were complete.
        whole: so many buffers are there afterwards.

    Raises:
        ReplayFormatError: if one of these lacks a file.
    """
    with name_file_in_errors(directory, directory):
        if stage is not None and (directory / stage).is_dir():
            _publish(directory, directory / stage, range(whole))
        for path in _files(directory, range(whole)):
            if not path.exists():
                raise ReplayFormatError(f"{path} is missing; copy it back, or record anew")
        for left in directory.glob(f"{STAGE_PREFIX}*"):
            shutil.rmtree(left)


def _files(directory: Path, numbers: Iterable[int]) -> Iterator[Path]:
    """The files of buffers in the order in which they are shown, the frames last."""
    for number in numbers:
        yield sidecar_path(directory, number)
        for name in ("add_count", "invalid_range"):
            yield directory / f"{name}_ckpt.{number}.gz"
        for element in reversed(ELEMENTS):
            yield element_path(directory, element, number)


def _publish(directory: Path, stage: Path, numbers: Iterable[int]) -> None:
    for file in _files(stage, numbers):
        if file.exists():
            file.rename(directory / file.name)
    sync(directory)


class _BufferFiles:
    """The files of one buffer while they are written; ``directory`` is where they will be."""

    def __init__(self, directory: Path, stage: Path, number: int, rows: int):
        self.number, self._rows, self.written = number, rows, 0
        self._directory, self._stage = directory, stage
        self._raw: list[tuple[int, float]] = []  # rows whose reward was clipped, and what it was
        with ExitStack() as stack:
            self._streams = {element: stack.enter_context(self._create(f"$store$_{element}")) for element in ELEMENTS}
            for element, (dtype, shape) in ELEMENTS.items():
                header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": (rows, *shape)}
                np.lib.format.write_array_header_1_0(self._streams[element], header)
            self._stack = stack.pop_all()

    def close(self) -> None:
        self._stack.close()

    def _create(self, name: str) -> AbstractContextManager[Any]:
        return create_gzip(self._stage / f"{name}_ckpt.{self.number}.gz")

    def write(self, rows: dict[str, npt.NDArray[Any]]) -> None:
        with name_file_in_errors(self._directory, self._directory):
            for element, (dtype, _) in ELEMENTS.items():
                self._streams[element].write(np.ascontiguousarray(rows[element], dtype=dtype).data)
        clipped = np.flatnonzero(rows["raw_reward"] != rows["reward"])
        self._raw += zip((clipped + self.written).tolist(), rows["raw_reward"][clipped].tolist(), strict=True)
        self.written += len(rows["action"])

    def finish(self, link: dict[str, npt.NDArray[Any]], add_count: int, recorded: dict[str, Any] | None) -> None:
        with name_file_in_errors(self._directory, self._directory), self._stack:
            self.write(link)
            cursor = add_count % self._rows
            # Rows whose stack or successor the cursor has cut off: from cursor - update_horizon on, stack_size + 1.
            invalid = (cursor - 1 + np.arange(PADDING + 2)) % self._rows
            for name, array in (("add_count", np.array(add_count)), ("invalid_range", invalid)):
                with self._create(name) as stream:
                    np.lib.format.write_array(stream, array, allow_pickle=False)
            if recorded is not None:
                rows, values = zip(*self._raw, strict=True) if self._raw else ((), ())
                content = json.dumps({**recorded, "raw_rewards": {"rows": rows, "values": values}})
                sidecar_path(self._stage, self.number).write_text(content)


def _sum(rewards: npt.NDArray[np.float32]) -> float:
    return float(rewards.sum(dtype=np.float64))


def _zero_rows(count: int) -> dict[str, npt.NDArray[Any]]:
    rows = {element: np.zeros((count, *shape), dtype) for element, (dtype, shape) in ELEMENTS.items()}
    return {**rows, "raw_reward": np.zeros(count, np.float32)}
