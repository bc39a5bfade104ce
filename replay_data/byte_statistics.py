"""Mean and standard deviation of each byte of the RAM over the steps of a trajectory store."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from replay_data.json_fields import read_list
from replay_data.observation import RAM_SIZE, ObservationSpec

_CHUNK_ROWS = 4096  # 0.5 MB, which stays in a processor's cache


@dataclass(frozen=True)
class ByteStatistics:
    """Mean and standard deviation of each byte of the RAM.

    Attributes:
        mean: Mean of each of the 128 bytes.
        std: Population standard deviation of each byte (divided by N, not N - 1); 0 for a byte that never changes.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def normalizer(self, spec: ObservationSpec) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Return what normalizes an observation: ``(x - mean) / scale``.

        Args:
            spec: An observation of the kind ``"ram"`` or ``"variables"``, of D entries.

        Returns:
            The mean and the scale of each entry, float32 ``[D]``. The scale is the standard deviation, or 1 for a
            constant entry, which is therefore 0 after normalization.

        Raises:
            ValueError: If the observation is of the kind ``"frames"``.
        """
        if not spec.is_vector:
            raise ValueError("frames are not normalized by the statistics of the RAM")
        addresses = list(spec.addresses or range(RAM_SIZE))
        mean, std = (np.array(values, dtype=np.float32)[addresses] for values in (self.mean, self.std))
        return mean, np.where(std > 0, std, np.float32(1))

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object that `from_json` reads."""
        return {"mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_json(cls, content: Any) -> ByteStatistics:
        """Read a JSON object that `to_json` returned.

        Raises:
            ValueError, KeyError, TypeError: If the content is anything else.
        """
        statistics = cls(read_list(content, "mean", float), read_list(content, "std", float))
        for name, values in (("mean", statistics.mean), ("std", statistics.std)):
            if len(values) != RAM_SIZE:
                raise ValueError(f"{name} has {len(values)} numbers, but the RAM has {RAM_SIZE} bytes")
            if not all(0 <= value <= 255 for value in values):
                raise ValueError(f"{name} holds a number that is not from 0 to 255")
        return statistics


class ByteSums:
    """Sums over rows of RAM, from which `statistics` computes mean and standard deviation without rounding errors."""

    def __init__(self) -> None:
        self._num_rows = 0
        self._sums = np.zeros(RAM_SIZE, dtype=np.uint64)
        self._squares = np.zeros(RAM_SIZE, dtype=np.uint64)

    def add(self, ram: npt.NDArray[np.uint8]) -> None:
        """Add rows of RAM, uint8 ``[T, 128]``."""
        for start in range(0, len(ram), _CHUNK_ROWS):
            rows = ram[start : start + _CHUNK_ROWS]
            self._sums += rows.sum(axis=0, dtype=np.uint32)
            # A square is at most 255 * 255, which uint16 holds; the sum of 4,096 squares is below 2 ** 32.
            self._squares += np.multiply(rows, rows, dtype=np.uint16).sum(axis=0, dtype=np.uint32)
        self._num_rows += len(ram)

    def statistics(self) -> ByteStatistics:
        """Return the statistics of the rows added so far, of which there must be at least one."""
        num_rows = self._num_rows
        mean, std = [], []
        for total, squares in zip(self._sums.tolist(), self._squares.tolist(), strict=True):
            mean.append(total / num_rows)
            std.append(math.sqrt(num_rows * squares - total * total) / num_rows)  # Python's integers do not overflow
        return ByteStatistics(tuple(mean), tuple(std))
