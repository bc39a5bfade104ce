"""Target returns: multiples of the data's largest return, percentiles of its returns, or numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from atari_dt.model.dataset_info import DatasetInfo
from replay_data import InputError, TrajectoryStore

DEFAULT_PERCENTILES = (50, 90, 100)
"""Percentiles that are played by default where the data has no positive return: an average, a good and the best
episode."""


def is_target_return(value: float) -> bool:
    """Return whether a number is finite in single precision, in which the model reads target returns."""
    with np.errstate(over="ignore"):
        return bool(np.isfinite(np.float32(value)))


def check_target_returns(target_returns: Sequence[float]) -> None:
    """Check that target returns are finite in single precision.

    Raises:
        InputError: If one is NaN, infinite, or beyond the largest float32.
    """
    for value in target_returns:
        if not is_target_return(value):
            raise InputError(f"target returns must be finite numbers of magnitude 3.4e38 at most, not {value:g}")


def compute_target_returns(
    dataset: DatasetInfo, return_multiples: Sequence[float], store: TrajectoryStore | None = None
) -> list[float]:
    """Turn multiples of the dataset's largest return into target returns.

    Args:
        dataset: Training data of the model.
        return_multiples: Multiples, such as 1.0 for the largest return itself.
        store: Store whose largest return replaces that of ``dataset``.

    Returns:
        Target returns, in the dataset's reward units.

    Raises:
        InputError: If the store has another game or other reward units, the largest return is unknown, it is not
            positive and a multiple is not 1, or a target return is not finite.
    """
    largest = returns_source(dataset, store).max_return
    if largest is None:
        raise InputError(
            "this checkpoint does not know its dataset's largest return, so multiples of it are undefined; give target "
            "returns as numbers, or a store that has the largest return"
        )
    if largest <= 0 and any(multiple != 1 for multiple in return_multiples):
        raise InputError(
            f"the dataset's largest return is {largest:g}, so larger multiples are not larger target returns; use "
            "percentiles of its returns, target returns as numbers, or multiple 1"
        )
    target_returns = [multiple * largest for multiple in return_multiples]
    check_target_returns(target_returns)
    return target_returns


def look_up_percentiles(
    dataset: DatasetInfo, return_percentiles: Sequence[int], store: TrajectoryStore | None = None
) -> list[float]:
    """Turn percentiles of the dataset's episode returns into target returns.

    Args:
        dataset: Training data of the model.
        return_percentiles: Percentiles, such as 100 for the largest return. Each is a return that an episode of the
            data has (`atari_dt.model.dataset_info.compute_percentiles`).
        store: Store whose returns replace those of ``dataset``.

    Returns:
        Target returns, in the dataset's reward units.

    Raises:
        InputError: If a percentile is not from 0 to 100, the store has another game or other reward units, or the
            checkpoint does not store the returns. Percentile 100 needs only the largest return.
    """
    check_percentiles(return_percentiles)
    dataset = returns_source(dataset, store)
    if dataset.return_percentiles is not None:
        return [dataset.return_percentiles[percentile] for percentile in return_percentiles]
    if dataset.max_return is None or any(percentile != 100 for percentile in return_percentiles):
        raise InputError(
            "this checkpoint does not store the distribution of its dataset's returns, so percentiles of them are "
            "unknown; give target returns as numbers, give the store of its data, or train it again"
        )
    return [dataset.max_return for _ in return_percentiles]


def check_percentiles(return_percentiles: Sequence[int]) -> None:
    """Check that percentiles are in range.

    Raises:
        InputError: If one is not from 0 to 100.
    """
    for percentile in return_percentiles:
        if not 0 <= percentile <= 100:
            raise InputError(f"percentiles of the returns must be from 0 to 100, not {percentile}")


def lacks_positive_return(datasets: Sequence[DatasetInfo]) -> bool:
    """Return whether multiples of the largest return make no target returns in some dataset: it is not positive."""
    return any(dataset.max_return is not None and dataset.max_return <= 0 for dataset in datasets)


def default_percentiles(datasets: Sequence[DatasetInfo]) -> tuple[int, ...]:
    """Return the percentiles to play by default where the data has no positive return.

    These are `DEFAULT_PERCENTILES`, but only the largest of those that are the same returns, and only 100 if a
    checkpoint does not store the others.

    Args:
        datasets: Training data of each seed.
    """
    if any(dataset.return_percentiles is None for dataset in datasets):
        return (100,)
    by_returns = {
        tuple(look_up_percentiles(dataset, [percentile])[0] for dataset in datasets): percentile
        for percentile in DEFAULT_PERCENTILES
    }
    return tuple(by_returns.values())


def explain_percentiles(return_percentiles: Sequence[int]) -> str:
    """Return a sentence that says why percentiles are played where no target returns were given."""
    *first, last = map(str, return_percentiles)
    names = f"percentiles {', '.join(first)} and {last}" if first else f"percentile {last}"
    verb = "target returns are" if first else "target return is"
    return (
        f"no episode of the data has a positive return, so the default {verb} {names} of its returns instead of "
        "multiples of the largest"
    )


def returns_source(dataset: DatasetInfo, store: TrajectoryStore | None) -> DatasetInfo:
    """Return the dataset whose returns define target returns: that of ``store`` if it is given, else ``dataset``.

    Raises:
        InputError: If the store has another game or other reward units than ``dataset``.
    """
    if store is None:
        return dataset
    if store.game != dataset.game:
        raise InputError(
            f"the model plays {dataset.game}, but the store at {store.path} is of {store.game}; "
            f"give a store of {dataset.game}"
        )
    if store.metadata.reward_clipping != dataset.reward_clipping:
        raise InputError(
            f"the store at {store.path} and the model's dataset differ in reward clipping, and so in the units of "
            "their returns; give a store with the same reward clipping"
        )
    return DatasetInfo.from_store(store)
