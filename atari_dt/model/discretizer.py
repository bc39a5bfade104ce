"""Tokens of numbers: intervals of the values of an entry, and the number that stands for each interval."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from atari_dt.trajectory_config import Discretization

Values = npt.NDArray[np.uint8] | npt.NDArray[np.int64] | npt.NDArray[np.float32]

_UNUSED = torch.finfo(torch.float32).max  # the lower bound of a token that no value has; finite, as all weights are


class Discretizer(nn.Module):
    """Map the values of E entries to tokens, and back.

    The tokens of an entry divide the real line into intervals, in ascending order. Each interval holds at least one
    value of the data that the discretizer was fitted to. A token stands for the mean of the data's values in its
    interval, which has the smallest squared error. A value outside the range of the data gets the first or last token.
    An entry with at most ``vocab_size`` distinct values has a token for each of them, without an error.

    The intervals are buffers, so that checkpoints hold them.

    Args:
        num_entries: E.
        vocab_size: Largest number of tokens of an entry.

    Attributes:
        bounds: Lower bounds of tokens 1, 2, … of each entry, float32 ``[E, vocab_size - 1]``; the largest float32 for
            tokens that the entry does not use.
        means: Number that each token stands for, float32 ``[E, vocab_size]``; 0 for tokens that the entry does not use.
    """

    bounds: Tensor
    means: Tensor

    def __init__(self, num_entries: int, vocab_size: int):
        super().__init__()
        self.register_buffer("bounds", torch.full((num_entries, vocab_size - 1), _UNUSED))
        self.register_buffer("means", torch.zeros(num_entries, vocab_size))

    def fit(self, columns: Sequence[Values], method: Discretization) -> None:
        """Choose the intervals of all entries.

        Args:
            columns: The data's values of each entry, ``[N]``, at least one and all finite. Their number may differ.
            method: How an entry with more than ``vocab_size`` distinct values is divided. ``"uniform"`` divides its
                range into intervals of equal width and joins those without a value to their neighbors. ``"quantile"``
                goes through the values in ascending order, and closes an interval where it holds nearest to its share
                of the data that are left: their number divided by that of the intervals that are left. A frequent value
                costs one token, and the values after it share all others.
        """
        vocab_size = self.means.shape[1]
        self.bounds.fill_(_UNUSED)
        self.means.zero_()
        for entry, column in enumerate(columns):
            values, counts = np.unique(column.astype(np.float32), return_counts=True)
            if len(values) <= vocab_size:
                first = np.arange(len(values))
            elif method == "uniform":
                width = (float(values[-1]) - float(values[0])) / vocab_size
                bins = np.minimum((values.astype(np.float64) - values[0]) // width, vocab_size - 1)
                first = np.flatnonzero(np.diff(bins, prepend=-1))
            else:
                first = _divide_equally(counts, vocab_size)
            sums = np.add.reduceat(values.astype(np.float64) * counts, first)
            last = np.append(first[1:], len(values)) - 1
            means = (sums / np.add.reduceat(counts, first)).astype(np.float32)
            below, above = values[last[:-1]], values[first[1:]]
            middles = ((below.astype(np.float64) + above) / 2).astype(np.float32)
            bounds = np.where(middles > below, middles, above)
            self.means[entry, : len(means)] = torch.from_numpy(means)
            self.bounds[entry, : len(bounds)] = torch.from_numpy(bounds)

    @property
    def used(self) -> Tensor:
        """Whether an entry uses a token, bool ``[E, vocab_size]``; every entry uses token 0."""
        return F.pad(self.bounds < _UNUSED, (1, 0), value=True)

    def encode(self, values: Tensor, entries: slice = slice(None)) -> Tensor:
        """Return the tokens of values.

        Args:
            values: Any number type, ``[..., E]``.
            entries: The entries that the values are of; all by default.

        Returns:
            int64 ``[..., E]``.
        """
        bounds = self.bounds[entries]
        columns = values.to(bounds.dtype).reshape(-1, len(bounds)).T.contiguous()
        return torch.searchsorted(bounds, columns, right=True).T.reshape(values.shape)

    def decode(self, tokens: Tensor, entries: slice = slice(None)) -> Tensor:
        """Return the number that each token stands for.

        Args:
            tokens: int64 ``[..., E]``.
            entries: The entries that the tokens are of; all by default.

        Returns:
            float32 ``[..., E]``.
        """
        means = self.means[entries]
        return means[torch.arange(len(means), device=means.device), tokens]

    def expectation(self, logits: Tensor, entry: int) -> Tensor:
        """Return the mean number of an entry under a distribution over its tokens.

        Args:
            logits: float32 ``[..., vocab_size]``; -inf for tokens that the entry does not use.
            entry: Index of the entry.

        Returns:
            float32 ``[...]``.
        """
        # Not a matrix product, whose rounding depends on the number of rows.
        return (logits.softmax(-1) * self.means[entry]).sum(-1)

    def reconstruction_error(self, values: Tensor) -> Tensor:
        """Return how much values change by the way over tokens.

        Args:
            values: ``[..., E]``.

        Returns:
            Mean absolute difference between a value and what its token stands for, in the unit of each entry, float32
            ``[E]``.
        """
        errors = self.decode(self.encode(values)) - values.to(self.means.dtype)
        return errors.abs().reshape(-1, errors.shape[-1]).mean(0)


def _divide_equally(counts: npt.NDArray[np.int64], num_intervals: int) -> npt.NDArray[np.int64]:
    """Divide ascending values into intervals that hold about the same number of data.

    Args:
        counts: How often each value occurs, int64 ``[M]``, more than ``num_intervals``.
        num_intervals: Number of intervals.

    Returns:
        Index of the first value of each interval, int64 ``[num_intervals]``.
    """
    first, held = [0], 0
    remaining, num_left = int(counts.sum()), num_intervals
    for index, count in enumerate(counts.tolist()):
        num_values = len(counts) - index  # those that are left, this one included
        if held and (held + count / 2 > remaining / num_left or num_values < num_left):
            first.append(index)
            remaining, num_left, held = remaining - held, num_left - 1, 0
        held += count
    return np.array(first)
