"""export_minari.py: what it writes is a source of build_dataset.py, and what it refuses."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

if sys.version_info < (3, 11):
    pytest.skip("the extra minari needs Python 3.11", allow_module_level=True)

import minari

from replay_data import TrajectoryStore
from replay_data.testing import write_random_store
from tests.scripts.commands import Refuse, call


def test_a_store_goes_to_minari_and_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "datasets"))
    store = write_random_store(tmp_path / "store", [5, 6])
    assert call(monkeypatch, "export_minari.py", store.path, "atari/breakout/mine-v0", "--author", "Nobody") == 0
    printed = capsys.readouterr().out
    path = tmp_path / "datasets/atari/breakout/mine-v0"
    assert printed.startswith(f"{path}: 11 steps in 2 episodes, with unclipped rewards\nsize:   0.")
    assert printed.endswith(
        "next:   python -c \"import minari; print(minari.load_dataset('atari/breakout/mine-v0')[0])\"\n"
    )
    dataset = minari.load_dataset("atari/breakout/mine-v0")
    env = dataset.recover_environment()
    assert env.observation_space == dataset.observation_space
    assert env.action_space == dataset.action_space
    assert dataset.observation_space.contains(env.reset(seed=0)[0])

    options = f"--source minari --path {tmp_path / 'datasets'} --selection all --out {tmp_path / 'again'}"
    assert call(monkeypatch, "build_dataset.py", *options.split()) == 0
    printed = capsys.readouterr().out
    assert "checksum" not in printed
    assert "again: 11 steps in 2 episodes\n" in printed  # of the only shard
    again = TrajectoryStore.open(tmp_path / "again")
    assert again.digest == store.digest
    assert again.metadata.sticky_actions == 0.25
    assert again.metadata.source.details["max_pooled"] is True


def test_selected_episodes_keep_the_environment_they_were_played_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = write_random_store(tmp_path / "store", [5])
    content = json.loads((store.path / "metadata.json").read_text())
    content["source"] = {"format": "store", "origin": {"format": "minari", "details": {"max_pooled": False}}}
    (store.path / "metadata.json").write_text(json.dumps(content))
    assert call(monkeypatch, "export_minari.py", store.path, "mine-v0", "--datasets-path", tmp_path) == 0
    env_spec = json.loads((tmp_path / "mine-v0/data/metadata.json").read_text())["env_spec"]
    assert json.loads(env_spec)["kwargs"]["frameskip"] == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("{tmp}/nowhere atari/breakout/mine-v0 --datasets-path {tmp}/new", "no trajectory store at {tmp}/nowhere"),
        ("{store} breakout --datasets-path {tmp}/new", "'breakout' is not a name of a Minari dataset"),
        ("{store} mine-v0 --datasets-path {store}/frames.npy", "{store}/frames.npy/mine-v0 cannot be written"),
    ],
)
def test_bad_input_gets_one_sentence(refuse: Refuse, options: str, message: str) -> None:
    refuse("export_minari.py", options, message)
