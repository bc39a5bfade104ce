"""The summary of the training data, and its percentiles against their definition."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from atari_dt.model.dataset_info import DatasetInfo, compute_percentiles
from atari_dt.model.decision_transformer import DecisionTransformer
from replay_data.testing import write_random_store
from tests.atari_dt.models import DATASET, small_model


@pytest.mark.parametrize("num_returns", [1, 2, 3, 7, 99, 100, 101, 250, 1000])
def test_a_percentile_is_the_smallest_return_that_so_many_do_not_exceed(num_returns: int) -> None:
    rng = np.random.default_rng(num_returns)
    for largest in (3, 10**6):  # with many equal returns, and with few
        returns = rng.integers(-largest, largest, num_returns).astype(np.float32)
        percentiles = compute_percentiles(returns)
        assert len(percentiles) == 101
        assert (percentiles[0], percentiles[100]) == (returns.min(), returns.max())
        for percent in range(1, 101):
            enough = [value for value in returns if 100 * int((returns <= value).sum()) >= percent * num_returns]
            assert percentiles[percent] == min(enough)


def test_a_checkpoint_keeps_the_percentiles_of_its_store(tmp_path: Path) -> None:
    store = write_random_store(tmp_path / "store", [5, 9, 4, 6])
    model = small_model()
    model.dataset = DatasetInfo.from_store(store)
    model.save_pretrained(tmp_path / "run")
    loaded = DecisionTransformer.from_pretrained(tmp_path / "run").dataset
    assert loaded is not None
    assert loaded.return_percentiles == tuple(
        np.percentile(store.episode_returns, range(101), method="inverted_cdf").tolist()
    )
    assert "return_percentiles" not in (tmp_path / "run" / "README.md").read_text()  # 101 numbers in one cell


def test_an_older_summary_equals_one_with_percentiles() -> None:
    """A run that an older version began can therefore be resumed."""
    newer = dataclasses.replace(DATASET, return_percentiles=(1.0,) * 101)
    older = DatasetInfo.from_json(json.loads(json.dumps(DATASET.to_json())))
    assert older == DATASET == newer
    assert older.return_percentiles is None
    assert DatasetInfo.from_json(newer.to_json()).return_percentiles == newer.return_percentiles


@pytest.mark.parametrize("percentiles", [[], [1.0] * 100, [float("nan")] * 101, ["1"] * 101, 3, {"0": 1.0}])
def test_other_percentiles_are_refused(percentiles: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        DatasetInfo.from_json({**DATASET.to_json(), "return_percentiles": percentiles})
