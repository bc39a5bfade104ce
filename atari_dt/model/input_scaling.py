"""What the inputs of a network are scaled with, where its weights have no place for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from replay_data.contexts import FloatArray
from replay_data.json_fields import read_field, read_list


@dataclass(frozen=True)
class InputScaling:
    """A network reads ``(state - mean) / scale`` and ``return_to_go / returns``.

    Attributes:
        mean: Mean of each entry of a state in the training data.
        scale: Standard deviation of each entry, or 1 where it is 0.
        returns: What returns-to-go are divided by, in the dataset's reward units.
    """

    mean: tuple[float, ...]
    scale: tuple[float, ...]
    returns: float

    @classmethod
    def from_arrays(cls, mean: FloatArray, scale: FloatArray, returns_to_go: FloatArray) -> InputScaling:
        """Return the scaling for a dataset: returns-to-go are divided by the largest magnitude among them.

        Args:
            mean: float32 ``[D]``; see `ByteStatistics.normalizer`.
            scale: float32 ``[D]``.
            returns_to_go: Returns-to-go of all steps, float32 ``[N]``.
        """
        return cls(tuple(mean.tolist()), tuple(scale.tolist()), float(np.abs(returns_to_go).max()) or 1.0)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object that `from_json` reads."""
        return {"mean": list(self.mean), "scale": list(self.scale), "returns": self.returns}

    @classmethod
    def from_json(cls, content: Any) -> InputScaling:
        """Read a JSON object that `to_json` returned.

        Raises:
            ValueError, KeyError, TypeError: If the content is anything else.
        """
        scaling = cls(
            read_list(content, "mean", float), read_list(content, "scale", float), read_field(content, "returns", float)
        )
        if len(scaling.mean) != len(scaling.scale):
            raise ValueError(f"scaling has {len(scaling.mean)} means and {len(scaling.scale)} scales")
        with np.errstate(over="ignore"):  # in float32, as the network computes
            means = np.array(scaling.mean, dtype=np.float32)
            divisors = np.array([*scaling.scale, scaling.returns], dtype=np.float32)
        if not np.isfinite(means).all():
            raise ValueError("a mean of its scaling is not finite")
        if not ((divisors > 0) & np.isfinite(divisors)).all():
            raise ValueError("a divisor of its scaling is not a positive number")
        return scaling
