"""Target returns as multiples of the dataset's largest return."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from atari_dt.evaluation.target_returns import compute_target_returns
from replay_data import InputError, TrajectoryStore
from replay_data.testing import write_random_store
from tests.atari_dt.models import DATASET


def test_target_returns_are_multiples_of_the_largest_return(store: TrajectoryStore) -> None:
    assert compute_target_returns(DATASET, [0, 0.5, 2]) == [0, 20, 80]
    assert compute_target_returns(DATASET, [2], store) == [2 * store.metadata.max_return]


def test_a_negative_largest_return_has_no_multiples() -> None:
    losing = dataclasses.replace(DATASET, max_return=-14.0)
    assert compute_target_returns(losing, [1]) == [-14]
    with pytest.raises(InputError, match="largest return is -14"):
        compute_target_returns(losing, [1, 2])


def test_an_unknown_largest_return_is_refused() -> None:
    with pytest.raises(InputError, match="does not know its dataset's largest return"):
        compute_target_returns(dataclasses.replace(DATASET, max_return=None), [1])


def test_store_of_another_game_is_refused(tmp_path: Path) -> None:
    pong = write_random_store(tmp_path / "pong", [4], game="Pong")
    with pytest.raises(InputError, match=r"plays Breakout, but the store at .* is of Pong"):
        compute_target_returns(DATASET, [1], pong)


def test_store_with_other_reward_clipping_is_refused(store: TrajectoryStore) -> None:
    unclipped = dataclasses.replace(DATASET, reward_clipping=not store.metadata.reward_clipping)
    with pytest.raises(InputError, match="differ in reward clipping"):
        compute_target_returns(unclipped, [1], store)
