"""Stream the gzipped ``.npy`` files of one buffer, row by row."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from replay_data.errors import ReplayFormatError
from replay_data.sources.dopamine_format import CHUNK_ROWS, ELEMENTS, PADDING, element_path
from replay_data.sources.dopamine_sidecar import BufferSidecar, sidecar_error, sidecar_path
from replay_data.storage.gzip_streams import open_gzip, translate_gzip_errors

COLUMN_CHUNK_ROWS = 1 << 20  # rows of another file; a header that promises more than there is costs no memory


@dataclass(frozen=True)
class Rows:
    """Rows as the files hold them, and where they come from."""

    frames: npt.NDArray[np.uint8]
    actions: npt.NDArray[np.uint8]
    rewards: npt.NDArray[np.float32]
    raw_rewards: npt.NDArray[np.float32]  # NaN where they are not known
    terminals: npt.NDArray[np.bool_]
    path: Path
    first_row: int

    def __getitem__(self, part: slice) -> Rows:
        first_row = self.first_row + (part.start or 0)
        values = self.rewards[part], self.raw_rewards[part], self.terminals[part]
        return Rows(self.frames[part], self.actions[part], *values, self.path, first_row)


class RowReader:
    """Reads the four files of a buffer in step.

    Attributes:
        rows: R.
        position: rows read or skipped so far.
    """

    def __init__(self, directory: Path, number: int, num_actions: int, recorded: BufferSidecar | None):
        self.position = 0
        self._num_actions = num_actions
        self._recorded, self._sidecar_path = recorded, sidecar_path(directory, number)
        self._streams: dict[str, ArrayStream] = {}
        with ExitStack() as stack:
            for element in ELEMENTS:
                self._streams[element] = stack.enter_context(ArrayStream(directory, element, number))
            self.rows = self._streams["observation"].rows
            for stream in self._streams.values():
                if stream.rows != self.rows:
                    raise ReplayFormatError(
                        f"{stream.path} has {stream.rows} rows, but {self._streams['observation'].path.name} has "
                        f"{self.rows}; the files of a buffer belong together"
                    )
            stack.pop_all()

    def __enter__(self) -> RowReader:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        for stream in self._streams.values():
            stream.close()

    def chunks(self, stop: int) -> Iterator[Rows]:
        """Read on to row ``stop``."""
        while self.position < stop:
            yield self.read(min(CHUNK_ROWS, stop - self.position))

    def read(self, count: int) -> Rows:
        frames = self._streams["observation"].read(count)
        actions, rewards, terminals = (self._streams[name].read(count) for name in ("action", "reward", "terminal"))
        self._check("action", actions, (actions >= 0) & (actions < self._num_actions), f"below {self._num_actions}")
        self._check("reward", rewards, np.abs(rewards) <= 1, "from -1 to 1")
        self._check("terminal", terminals, terminals <= 1, "0 or 1")
        first_row, self.position = self.position, self.position + count
        path = self._streams["observation"].path
        if self._recorded is None:
            raw_rewards = np.full_like(rewards, np.nan)
        else:
            try:
                raw_rewards = self._recorded.raw_rewards(rewards, first_row)
            except ValueError as error:
                raise sidecar_error(self._sidecar_path, str(error)) from error
        return Rows(frames, actions.astype(np.uint8), rewards, raw_rewards, terminals.astype(bool), path, first_row)

    def _check(self, element: str, values: npt.NDArray[Any], good: npt.NDArray[np.bool_], expected: str) -> None:
        if not good.all():
            row = int(np.argmin(good))
            raise ReplayFormatError(
                f"{self._streams[element].path}, row {self.position + row}: {element} {values[row]:g} is not "
                f"{expected}; the file is damaged or of another kind"
            )

    def skip(self, count: int) -> None:
        for stream in self._streams.values():
            stream.skip(count)
        self.position += count

    def finish(self, frames: bool = True) -> None:
        """Read on to the checksums, without looking at the rows; of the frames only if asked to."""
        for element, stream in self._streams.items():
            if element != "observation" or frames:
                stream.finish()


class ArrayStream:
    """A gzipped ``.npy`` file, read row by row; only what is asked for is decompressed."""

    def __init__(self, directory: Path, element: str, number: int):
        self.path = element_path(directory, element, number)
        dtype, self._row_shape = ELEMENTS[element]
        self._dtype = np.dtype(dtype)
        self.rows = self.position = 0
        self._file = open_gzip(self.path)
        try:
            self.rows = self._read_header()
        except BaseException:
            self._file.close()
            raise

    def _read_header(self) -> int:
        with translate_gzip_errors(self._damaged):
            shape, dtype = _read_header(self._file)
        if dtype != self._dtype or shape[1:] != self._row_shape or not shape:
            expected = ", ".join(["R", *map(str, self._row_shape)])
            raise ReplayFormatError(
                f"{self.path} holds {dtype} {list(shape)}, but this file of a replay log is {self._dtype} [{expected}]"
            )
        if shape[0] < PADDING + 2:
            raise ReplayFormatError(f"{self.path} has {shape[0]} rows; a buffer has at least {PADDING + 2}")
        return int(shape[0])

    def __enter__(self) -> ArrayStream:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()

    def read(self, count: int) -> npt.NDArray[Any]:
        """The next ``count`` rows."""
        if self.position + count > self.rows:
            raise ReplayFormatError(f"{self.path} ends at row {self.rows}; row {self.position + count - 1} is wanted")
        rows = np.empty((count, *self._row_shape), dtype=self._dtype)
        buffer = rows.reshape(-1).view(np.uint8)
        filled = 0
        with translate_gzip_errors(self._damaged):
            while filled < len(buffer):
                got = self._file.readinto(buffer[filled:])
                if not got:
                    raise EOFError
                filled += got
        self.position += count
        return rows

    def skip(self, count: int) -> None:
        """Read over ``count`` rows."""
        while count:
            step = min(count, CHUNK_ROWS)
            self.read(step)
            count -= step

    def finish(self) -> None:
        """Read to the end, where gzip's checksum is compared."""
        self.skip(self.rows - self.position)
        with translate_gzip_errors(self._damaged):
            if self._file.read(1):
                raise ValueError(f"bytes follow its {self.rows} rows")

    def _damaged(self, what: str) -> ReplayFormatError:
        return ReplayFormatError(f"{self.path} is damaged at row {self.position} or after ({what}); copy it again")


def read_add_count(directory: Path, number: int) -> int | None:
    path = directory / f"add_count_ckpt.{number}.gz"
    if not path.exists():
        return None

    def damaged(what: str) -> ReplayFormatError:
        return ReplayFormatError(f"{path} is damaged ({what}); copy it again")

    with open_gzip(path) as file, translate_gzip_errors(damaged):
        shape, dtype = _read_header(file)
        if shape != () or dtype.kind not in "iu":
            raise ValueError(f"it holds {dtype} {list(shape)}, not one count")
        content = file.read()
        count = int(np.frombuffer(content, dtype)[0]) if len(content) == dtype.itemsize else -1
        if count < 0:
            raise ValueError("it holds no count")
    return count


def _read_header(file: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """The shape and dtype that a ``.npy`` file begins with; ValueError or EOFError if it is none."""
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("it is not of .npy version 1.0")
    try:
        shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
    except (OSError, EOFError):
        raise
    except Exception as error:  # the header is a Python literal, and its parser can raise nearly anything
        raise ValueError(f"its header is none of .npy: {error}") from error
    if fortran_order:
        raise ValueError("it is in Fortran order")
    return shape, dtype
