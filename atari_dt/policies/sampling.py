"""How actions are sampled from a model's logits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from replay_data import InputError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Sampling:
    """How actions are sampled from the logits.

    Attributes:
        temperature: Temperature that divides the logits; 0 takes the most likely action (greedy).
        top_k: Number of most likely actions to sample from; by default all.

    Raises:
        InputError: If a number is out of range.
    """

    temperature: float = 1.0
    top_k: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise InputError(f"`temperature` must be 0 (greedy) or more, not {self.temperature}")
        if self.top_k is not None and self.top_k < 1:
            raise InputError(f"`top_k` must be at least 1, not {self.top_k}")

    def probabilities(self, logits: Tensor) -> npt.NDArray[np.float64]:
        """Turn logits ``[M, num_actions]`` into probabilities, float64 ``[M, num_actions]``."""
        import torch  # only a model that plays needs it; commands read their options without it

        top_k = logits.shape[-1] if self.top_k is None else min(self.top_k, logits.shape[-1])
        if self.temperature == 0:
            top_k = 1
        kept = torch.zeros_like(logits, dtype=torch.bool).scatter_(-1, logits.topk(top_k).indices, True)
        scaled = logits.double() / (self.temperature or 1.0)
        return scaled.masked_fill(~kept, -math.inf).softmax(-1).cpu().numpy()


def draw_actions(probabilities: npt.NDArray[np.float64], rngs: Sequence[np.random.Generator]) -> npt.NDArray[np.int64]:
    """Draw an action for each of M environments from its own generator, by inverting the cumulative distribution.

    Args:
        probabilities: float64 ``[M, num_actions]``.
        rngs: Generator of each environment.

    Returns:
        int64 ``[M]``.
    """
    draws = np.array([rng.random() for rng in rngs])
    reached = probabilities.cumsum(-1) > draws[:, None]
    most_likely = probabilities.argmax(-1)  # where rounding leaves the cumulative sum below the draw
    return np.where(reached.any(-1), reached.argmax(-1), most_likely)
