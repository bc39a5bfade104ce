"""Turn multiples of the dataset's largest return into target returns."""

from __future__ import annotations

from collections.abc import Sequence

from atari_dt.model.dataset_info import DatasetInfo
from atari_dt.model.decision_transformer import DecisionTransformer
from replay_data import InputError, TrajectoryStore


def require_dataset(model: DecisionTransformer) -> DatasetInfo:
    """Return the training data of a model.

    Raises:
        InputError: If the model does not know its dataset.
    """
    if model.dataset is None:
        raise InputError("this model does not know the dataset it was trained on, so there is no game to play")
    return model.dataset


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
        InputError: If the store has another game or other reward units, the largest return is unknown, or it is not
            positive and a multiple is not 1.
    """
    largest = dataset.max_return
    if store is not None:
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
        largest = store.metadata.max_return
    if largest is None:
        raise InputError(
            "this checkpoint does not know its dataset's largest return, so multiples of it are undefined; give "
            "`target_returns`, or a store that has the largest return"
        )
    if largest <= 0 and any(multiple != 1 for multiple in return_multiples):
        raise InputError(
            f"the dataset's largest return is {largest:g}, so larger multiples are not larger target returns; use "
            "multiple 1, `target_returns`, or data with a positive return"
        )
    return [multiple * largest for multiple in return_multiples]
