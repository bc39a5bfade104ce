"""Read the rows of one buffer of a Dopamine log: its files in step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from replay_data.errors import ReplayFormatError
from replay_data.sources.dopamine_arrays import ArrayStream
from replay_data.sources.dopamine_format import CHUNK_ROWS, ELEMENTS, ROW_ELEMENTS
from replay_data.sources.dopamine_sidecar import BufferSidecar, sidecar_error, sidecar_path


@dataclass(frozen=True)
class Rows:
    """T consecutive rows of a buffer.

    Attributes:
        frames: uint8 ``[T, 84, 84]``.
        actions: uint8 ``[T]``.
        rewards: float32 ``[T]``, clipped to [-1, 1].
        raw_rewards: float32 ``[T]``, the rewards before clipping; NaN where they are not known.
        terminals: bool ``[T]``.
        episode_steps: int64 ``[T]``, the number of steps of the episode that ends with the row, 0 where none ends; -1
            where that is not known.
        ram: uint8 ``[T, 128]``, the emulator's RAM; None if it is not read.
        path: The file of the frames, for error messages.
        first_row: Row of the buffer that the first of these rows is.
    """

    frames: npt.NDArray[np.uint8]
    actions: npt.NDArray[np.uint8]
    rewards: npt.NDArray[np.float32]
    raw_rewards: npt.NDArray[np.float32]
    terminals: npt.NDArray[np.bool_]
    episode_steps: npt.NDArray[np.int64]
    ram: npt.NDArray[np.uint8] | None
    path: Path
    first_row: int

    def __len__(self) -> int:
        return len(self.actions)

    def __getitem__(self, span: slice) -> Rows:
        return Rows(
            self.frames[span],
            self.actions[span],
            self.rewards[span],
            self.raw_rewards[span],
            self.terminals[span],
            self.episode_steps[span],
            None if self.ram is None else self.ram[span],
            self.path,
            self.first_row + (span.start or 0),
        )

    @classmethod
    def concatenate(cls, pieces: Sequence[Rows]) -> Rows:
        """Return the rows of all pieces; ``path`` and ``first_row`` are those of the first piece."""
        ram = [rows.ram for rows in pieces if rows.ram is not None]  # of all pieces or of none
        return cls(
            np.concatenate([rows.frames for rows in pieces]),
            np.concatenate([rows.actions for rows in pieces]),
            np.concatenate([rows.rewards for rows in pieces]),
            np.concatenate([rows.raw_rewards for rows in pieces]),
            np.concatenate([rows.terminals for rows in pieces]),
            np.concatenate([rows.episode_steps for rows in pieces]),
            np.concatenate(ram) if ram else None,
            pieces[0].path,
            pieces[0].first_row,
        )


class RowReader:
    """A forward reader of the rows of a buffer.

    Args:
        directory: The ``replay_logs`` directory.
        index: Index of the buffer.
        num_actions: Size of the game's action set; a larger action is an error.
        sidecar: The JSON file beside the buffer, for the raw rewards and the ends of episodes; None if there is none.
        raw_rewards: Whether to read the raw rewards; otherwise they are NaN.
        ram: Whether to read the RAM, whose file must be there.

    Attributes:
        rows: R, number of rows of the buffer.
        position: Number of rows read or skipped so far.

    Raises:
        ReplayFormatError: If a file is damaged or the files contradict each other.
    """

    def __init__(
        self,
        directory: Path,
        index: int,
        num_actions: int,
        sidecar: BufferSidecar | None,
        raw_rewards: bool = True,
        ram: bool = False,
    ):
        self.position = 0
        self._has_raw_rewards = raw_rewards
        self._num_actions = num_actions
        self._sidecar, self._sidecar_path = sidecar, sidecar_path(directory, index)
        self._streams: dict[str, ArrayStream] = {}
        with ExitStack() as stack:
            for element in ROW_ELEMENTS if ram else ELEMENTS:
                self._streams[element] = stack.enter_context(ArrayStream(directory, element, index))
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
        """Close the files."""
        for stream in self._streams.values():
            stream.close()

    def chunks(self, stop: int) -> Iterator[Rows]:
        """Yield the rows from `position` to row ``stop``, at most 1024 at a time."""
        while self.position < stop:
            yield self.read(min(CHUNK_ROWS, stop - self.position))

    def read(self, count: int) -> Rows:
        """Return the next ``count`` rows.

        Raises:
            ReplayFormatError: If they are damaged, missing, or not those of a log with these actions.
        """
        frames = self._streams["observation"].read(count)
        actions, rewards, terminals = (self._streams[name].read(count) for name in ("action", "reward", "terminal"))
        self._check("action", actions, (actions >= 0) & (actions < self._num_actions), f"below {self._num_actions}")
        self._check("reward", rewards, np.abs(rewards) <= 1, "from -1 to 1")
        self._check("terminal", terminals, terminals <= 1, "0 or 1")
        first_row, self.position = self.position, self.position + count
        terminals, raw_rewards = terminals.astype(bool), np.full_like(rewards, np.nan)
        episode_steps = np.full(count, -1, dtype=np.int64)
        if self._sidecar is not None:
            try:
                episode_steps = self._sidecar.episode_steps(terminals, first_row)
                if self._has_raw_rewards:
                    raw_rewards = self._sidecar.raw_rewards(rewards, first_row)
            except ValueError as error:
                raise sidecar_error(self._sidecar_path, str(error)) from error
        actions = actions.astype(np.uint8)
        ram = self._streams["ram"].read(count) if "ram" in self._streams else None
        path = self._streams["observation"].path
        return Rows(frames, actions, rewards, raw_rewards, terminals, episode_steps, ram, path, first_row)

    def _check(self, element: str, values: npt.NDArray[Any], valid: npt.NDArray[np.bool_], expected: str) -> None:
        if not valid.all():
            row = int(np.argmin(valid))
            raise ReplayFormatError(
                f"{self._streams[element].path}, row {self.position + row}: {element} {values[row]:g} is not "
                f"{expected}; the file is damaged or of another format"
            )

    def skip(self, count: int) -> None:
        """Read past ``count`` rows."""
        for stream in self._streams.values():
            stream.skip(count)
        self.position += count

    def finish(self, frames: bool = True) -> None:
        """Read the files to their ends, where gzip compares its checksums, without checking the rows.

        Args:
            frames: Whether to read the frames too, which takes longest.
        """
        for element, stream in self._streams.items():
            if element != "observation" or frames:
                stream.finish()
