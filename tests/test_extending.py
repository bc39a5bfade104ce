"""The learning method that docs/extending.md adds as an example: it trains, learns, is saved and plays."""

from __future__ import annotations

import dataclasses
import importlib
import re
import sys
import textwrap
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

from atari_dt import config, method_config
from atari_dt.method_config import VALUE_TRAINING
from atari_dt.methods import METHODS, load_model
from replay_data.testing import write_random_store
from tests.atari_dt.methods.tabular import iterate_values, make_batch, make_learner, write_log
from tests.atari_dt.q_networks import ADAM, use_small_layers
from tests.scripts.commands import call

PAGE = Path(__file__).parents[1] / "docs" / "extending.md"


@pytest.fixture
def dqn_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The config of the page's method, after its steps 1 to 4 were followed."""
    section = PAGE.read_text().partition("## Add a learning method\n")[2].partition("\n## ")[0]
    blocks = map(textwrap.dedent, re.findall(r"^ *```python\n(.*?)^ *```$", section, re.DOTALL | re.MULTILINE))
    config_code, method_code = blocks
    in_method_config = "from __future__ import annotations\nfrom atari_dt.method_config import *\n"
    (tmp_path / "example_config.py").write_text(in_method_config + config_code)
    (tmp_path / "example_method.py").write_text(method_code)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("example_config", "example_method"):
        sys.modules.pop(name, None)
    DQNConfig = importlib.import_module("example_config").DQNConfig
    monkeypatch.setattr(config, "MethodName", Literal["dt", "bc", "qrdqn", "cql", "rem", "dqn"])
    monkeypatch.setattr(method_config, "METHOD_NAMES", (*method_config.METHOD_NAMES, "dqn"))
    monkeypatch.setattr(method_config, "DQNConfig", DQNConfig, raising=False)
    monkeypatch.setitem(method_config.CONFIG_TYPES, "dqn", DQNConfig)  # type: ignore[misc]
    monkeypatch.setitem(METHODS, "dqn", importlib.import_module("example_method").DQN)  # type: ignore[misc]
    return DQNConfig


def test_the_example_of_a_learning_method_finds_the_best_q(tmp_path: Path, dqn_config: Any) -> None:
    torch.manual_seed(0)
    _, transitions = write_log(tmp_path / "log", 250)
    example = dqn_config(discount=0.8, target_update_every=5)
    learner, _, table, _ = make_learner(example, training=dataclasses.replace(ADAM, adam_eps=1e-8))
    batch = make_batch(transitions)
    for update in range(200):
        learner.update(batch, update, 0.1 * (1 - update / 200))
    np.testing.assert_allclose(table.detach().numpy()[..., 0], iterate_values(0.8), atol=0.02)


def test_the_example_of_a_learning_method_works_in_every_command(
    tmp_path: Path, dqn_config: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_small_layers(monkeypatch.setattr)
    store, out = write_random_store(tmp_path / "store", [9, 8]), tmp_path / "run"
    assert call(monkeypatch, "train.py", "--method", "dqn", "--help") == 0
    assert "Largest derivative of the loss" in capsys.readouterr().out
    options = ("--method", "dqn", "--data", store.path, "--out", out, "--batch-size", 4, "--max-gradient")
    assert call(monkeypatch, "train.py", *options, 0) == 1
    assert capsys.readouterr().err == "error: --max-gradient must be positive, not 0.0\n"
    assert call(monkeypatch, "train.py", *options, 2, "--max-updates", 3) == 0
    model = load_model(out / "checkpoints" / "update-00000003")
    assert model.config == dqn_config(max_gradient=2.0)
    assert model.training_config == dataclasses.replace(VALUE_TRAINING, batch_size=4, max_updates=3)
    capsys.readouterr()
    assert call(monkeypatch, "evaluate.py", out, "--episodes", 1, "--max-steps", 20) == 0
    assert "DQN" in capsys.readouterr().out
