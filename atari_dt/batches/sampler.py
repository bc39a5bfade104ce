"""The order in which a run goes through the windows of its data."""

from __future__ import annotations

import numpy as np

from replay_data.contexts import IntArray


class BatchSampler:
    """Samples the windows of each update: every window once per epoch, in random order.

    The last batch of an epoch may be smaller. The order is a function of the seed, so that a resumed run can continue
    at any update.

    Args:
        steps: int64 ``[M]``, the dataset's steps at which the windows start.
        batch_size: Number of windows per batch.
        seed: Seed of the order.

    Attributes:
        updates_per_epoch: Number of batches per epoch.
    """

    def __init__(self, steps: IntArray, batch_size: int, seed: int):
        self._steps, self._batch_size, self._seed = steps, batch_size, seed
        self._epoch = -1
        self.updates_per_epoch = -(-len(steps) // batch_size)

    def batch(self, update: int) -> IntArray:
        """Return the steps, int64 ``[B]``, at which the windows of an update start; the first update is 0."""
        epoch, index = divmod(update, self.updates_per_epoch)
        if epoch != self._epoch:
            self._epoch = epoch
            self._permutation = np.random.default_rng([self._seed, epoch]).permutation(self._steps)
        return self._permutation[index * self._batch_size : (index + 1) * self._batch_size]
