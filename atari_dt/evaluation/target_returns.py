"""Turn multiples of the dataset's largest return into target returns."""

from __future__ import annotations

from collections.abc import Sequence

from atari_dt.model.dataset_info import DatasetInfo
from atari_dt.model.decision_transformer import DecisionTransformer
from replay_data import InputError, TrajectoryStore


def require_dataset(model: DecisionTransformer) -> DatasetInfo:
    """Return what the model was trained on.

    Raises:
        InputError: if it does not know.
    """
    if model.dataset is None:
        raise InputError("this model does not know the dataset it was trained on, so there is no game to play")
    return model.dataset


def compute_target_returns(
    dataset: DatasetInfo, return_multiples: Sequence[float], store: TrajectoryStore | None = None
) -> list[float]:
    """Turn multiples of the dataset's largest return into target returns.

    Args:
        dataset: what the model was trained on.
        return_multiples: such as 1.0 for the largest return itself.
        store: take the largest return from this store instead.

    Raises:
        InputError: if the store is of another game or counts rewards in another way, if no largest return is known, or
            if it is not positive and a multiple is not 1.
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
                f"the store at {store.path} and the model's dataset clip rewards differently, so returns "
                "of one mean nothing to the other; give a store made with the same reward clipping"
            )
        largest = store.metadata.max_return
    if largest is None:
        raise InputError(
            "this checkpoint does not know its dataset's largest return, so there are no multiples of it; "
            "give target returns, or a store to take it from"
        )
    if largest <= 0 and any(multiple != 1 for multiple in return_multiples):
        raise InputError(
            f"the dataset's largest return is {largest:g}, so multiples of it do not ask for more; "
            "use multiple 1, target returns, or data with a positive return"
        )
    return [multiple * largest for multiple in return_multiples]
