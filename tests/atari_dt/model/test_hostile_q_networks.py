"""Impossible checkpoints of Q-networks, and checkpoints of one network that are loaded as another."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from atari_dt.method_config import CQLConfig
from atari_dt.methods import load_model
from atari_dt.model.decision_transformer import DecisionTransformer
from atari_dt.model.q_network import QNetwork
from replay_data import InputError
from tests.atari_dt.model.networks import small_model
from tests.atari_dt.q_networks import use_small_layers


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("num_quantiles", 10**15, r"head.weight has shape \[24, 16\], not \[4000000000000000, 16\]"),
        ("num_quantiles", 10**18, "a network of these sizes is impossible"),
        ("num_quantiles", 0, "`num_quantiles` must be at least 1, not 0"),
        ("num_quantiles", "6", "num_quantiles is '6'"),
        ("num_q_heads", 6, "'num_q_heads' is unknown"),
        ("alpha", float("nan"), "alpha is nan"),
        ("discount", 7, "`discount` must be between 0 and 1, not 7.0"),
        ("method", "rem", "'num_quantiles' is unknown"),
        ("method", "dt", "method is 'dt', which is not one of qrdqn, cql"),
        ("method", ["cql"], "which is not one of qrdqn, cql"),
        ("method", None, "'discount' is unknown"),
    ],
)
def test_impossible_configs_of_q_networks_are_refused(
    name: str, value: object, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_small_layers(monkeypatch.setattr)
    path = tmp_path / "checkpoint"
    QNetwork(CQLConfig(num_quantiles=6), 4).save_pretrained(path)
    config = json.loads((path / "config.json").read_text())
    config["model"][name] = value
    (path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=rf"the checkpoint .* is damaged or from another project \(.*{reason}"):
        load_model(path)


def test_checkpoints_of_other_networks_are_refused(tmp_path: Path) -> None:
    QNetwork(CQLConfig(num_quantiles=6), 4).save_pretrained(tmp_path / "cql")
    with pytest.raises(
        InputError, match=r"is a checkpoint of conservative Q-learning \(CQL\), not of a DecisionTransf"
    ):
        DecisionTransformer.from_pretrained(tmp_path / "cql")
    small_model().save_pretrained(tmp_path / "dt")
    with pytest.raises(InputError, match="is a checkpoint of Decision Transformer, not of a QNetwork; load it with "):
        QNetwork.from_pretrained(tmp_path / "dt")
    assert isinstance(load_model(tmp_path / "dt"), DecisionTransformer)


def test_a_run_in_place_of_a_checkpoint_is_told_apart(tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / "update-00000003").mkdir(parents=True)
    with pytest.raises(InputError, match=r"is not a checkpoint; it is a run; load its checkpoint .*/update-00000003$"):
        load_model(tmp_path)
