"""Checkpoints: saving, loading, model cards, the Hugging Face Hub, and format version 1."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import HfApi, ModelCard, constants
from safetensors.torch import load_file

from atari_dt.config import ModelConfig, TrainingConfig
from atari_dt.method_config import VALUE_TRAINING, CQLConfig, QRDQNConfig, REMConfig
from atari_dt.model import pretrained
from atari_dt.model.checkpoint_config import CheckpointConfig
from atari_dt.model.dataset_info import DatasetInfo
from atari_dt.model.decision_transformer import DecisionTransformer
from atari_dt.model.pretrained import latest_checkpoint
from atari_dt.model.q_network import QNetwork
from atari_dt.model.reported_evaluation import ReportedEvaluation
from replay_data import InputError
from replay_data.observation import FRAMES
from replay_data.testing import write_random_store
from tests.atari_dt.model.networks import random_inputs, small_model
from tests.atari_dt.models import DATASET
from tests.atari_dt.q_networks import use_small_layers
from tests.conftest import DATA

EVALUATION = ReportedEvaluation(
    return_multiple=0.5, target_return=12.5, scores=(10.0, 20.0, 30.0), mean_score=20.0, std_score=8.1649
)


@pytest.fixture
def model(tmp_path: Path) -> DecisionTransformer:
    model = DecisionTransformer(ModelConfig(2, 1, 2, 16), num_actions=4, max_timestep=100).eval()
    model.dataset = DatasetInfo.from_store(write_random_store(tmp_path / "store", [5, 6]))
    model.training_config = TrainingConfig(learning_rate=7e-4)
    model.evaluations = (EVALUATION,)
    shutil.rmtree(tmp_path / "store")
    return model


def logits(model: DecisionTransformer) -> torch.Tensor:
    torch.manual_seed(0)
    states = torch.randint(0, 256, (1, 2, 4, 84, 84), dtype=torch.uint8)
    ones = torch.ones(1, 2, dtype=torch.int64)
    with torch.inference_mode():
        return model(states, ones, ones.float(), ones).action_logits


def test_saved_checkpoint_restores_the_model_and_has_a_card(model: DecisionTransformer, tmp_path: Path) -> None:
    path = tmp_path / "shared"
    model.save_pretrained(path, repo_id="somebody/breakout")
    assert sorted(file.name for file in path.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    again = DecisionTransformer.from_pretrained(path)
    assert torch.equal(logits(again), logits(model))
    assert again.dataset == model.dataset
    assert again.training_config == model.training_config
    assert again.evaluations == (EVALUATION,)

    card = ModelCard.load(path / "README.md")
    assert card.data.library_name == "atari-dt"
    assert card.data.model_name == "breakout"
    (result,) = card.data.eval_results or []
    assert (result.dataset_name, result.metric_value) == ("Breakout", "20.0 ± 8.2")
    assert 'load_model("somebody/breakout")' in card.text
    assert "| 12.5 (0.5 × the data's largest) | 20.0 ± 8.2 | 3 |" in card.text
    assert (
        "Unlike in the paper: context_length = 2 (paper: 30), num_layers = 1 (paper: 6), num_heads = 2 (paper: 8), "
        "embed_dim = 16 (paper: 128), learning_rate = 0.0007 (paper: 0.0006).\n"
    ) in card.text
    for row in ("| game | Breakout |", "| episodes | 2 |", "| context_length | 2 |", "| learning_rate | 0.0007 |"):
        assert row in card.text
    with pytest.raises(InputError, match="exists already"):
        model.save_pretrained(path)


@pytest.mark.parametrize(
    ("config", "title", "tag", "deviation"),
    [
        (
            QRDQNConfig(num_quantiles=6),
            "Quantile-regression DQN (QR-DQN) for Breakout (Dabney et al., AAAI 2018)",
            "quantile-regression-dqn",
            "num_quantiles = 6 (paper: 200)",
        ),
        (
            CQLConfig(num_quantiles=200, alpha=1.0),
            "Conservative Q-learning (CQL) for Breakout (Kumar et al., NeurIPS 2020)",
            "conservative-q-learning",
            "alpha = 1.0 (paper: 4.0)",
        ),
        (
            REMConfig(num_q_heads=3, epsilon=0.5),
            "Random ensemble mixture (REM) for Breakout (Agarwal et al., ICML 2020)",
            "random-ensemble-mixture",
            "epsilon = 0.5 (paper: 0.001), num_q_heads = 3 (paper: 200)",
        ),
    ],
    ids=["qrdqn", "cql", "rem"],
)
def test_value_models_are_shared_and_loaded_by_the_code_of_their_card(
    config: QRDQNConfig | REMConfig,
    title: str,
    tag: str,
    deviation: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    use_small_layers(monkeypatch.setattr)
    network = QNetwork(config, 4).eval()
    network.dataset, network.training_config = DATASET, VALUE_TRAINING
    network.evaluations = (ReportedEvaluation(None, None, (3.0, 5.0), 4.0, 1.0),)
    path = tmp_path / "shared"
    network.save_pretrained(path, repo_id="somebody/breakout")
    card = ModelCard.load(path / "README.md")
    assert title in card.text
    assert tag in (card.data.tags or [])
    assert f"Unlike in the paper: {deviation}.\n" in card.text
    assert "| none | 4.0 ± 1.0 | 2 |" in card.text
    assert "| discount | 0.99 |" in card.text

    hub = {"somebody/breakout": str(path)}
    monkeypatch.setattr(pretrained, "snapshot_download", lambda repo_id, **options: hub[repo_id])
    (code,) = re.findall(r"```python\n(.*?)```", card.text, re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    again = names["model"]
    assert isinstance(again, QNetwork)
    assert again.checkpoint_config == network.checkpoint_config
    assert not again.training
    weights = network.state_dict()
    assert weights.keys() == again.state_dict().keys()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in again.state_dict().items())


def test_card_of_an_untrained_model_says_that_nothing_is_recorded(model: DecisionTransformer, tmp_path: Path) -> None:
    model.dataset, model.training_config, model.evaluations = None, None, ()
    model.save_pretrained(tmp_path / "fresh")
    text = ModelCard.load(tmp_path / "fresh" / "README.md").text
    assert "The model was not evaluated." in text
    assert "Not recorded." in text
    config = json.loads((tmp_path / "fresh" / "config.json").read_text())
    for name in ("training", "evaluations"):  # the first checkpoints of format version 1 lack these keys
        del config[name]
    (tmp_path / "fresh" / "config.json").write_text(json.dumps(config))
    assert torch.equal(logits(DecisionTransformer.from_pretrained(tmp_path / "fresh")), logits(model))


def test_pushed_model_can_be_downloaded(
    model: DecisionTransformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A directory stands in for the Hub; huggingface_hub's own code runs between it and the model."""
    hub = tmp_path / "hub"

    def create_repo(self: HfApi, repo_id: str, **options: Any) -> object:
        assert options["private"] is True
        return type("Repo", (), {"repo_id": repo_id})

    def upload_folder(self: HfApi, repo_id: str, folder_path: Path, **options: Any) -> str:
        shutil.copytree(folder_path, hub / repo_id)
        return f"https://hub/{repo_id}/commit"

    def download(repo_id: str, allow_patterns: list[str], revision: str | None = None) -> str:
        assert (revision, allow_patterns) == ("main", ["config.json", "model.safetensors"])
        return str(hub / repo_id)

    monkeypatch.setattr(HfApi, "create_repo", create_repo)
    monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
    monkeypatch.setattr(pretrained, "snapshot_download", download)
    assert model.push_to_hub("somebody/breakout", private=True) == "https://hub/somebody/breakout/commit"
    again = DecisionTransformer.from_pretrained("somebody/breakout", revision="main")
    assert torch.equal(logits(again), logits(model))
    assert "somebody/breakout" in ModelCard.load(hub / "somebody" / "breakout" / "README.md").text
    model.save_pretrained(tmp_path / "both", repo_id="somebody/again", push_to_hub=True, private=True)
    for path in (tmp_path / "both", hub / "somebody" / "again"):
        assert torch.equal(logits(DecisionTransformer.from_pretrained(path)), logits(model))


def test_hub_errors_become_one_sentence(model: DecisionTransformer, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:  # huggingface_hub passes on the errors of its HTTP library
        raise type("ConnectError", (Exception,), {"__module__": "httpx"})("no route to host")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        InputError, match="'somebody/breakout' cannot be read from this machine or the Hugging Face Hub"
    ):
        DecisionTransformer.from_pretrained("somebody/breakout")
    with pytest.raises(InputError, match="'runs/a/b/c' cannot be read"):
        DecisionTransformer.from_pretrained("runs/a/b/c")
    monkeypatch.setattr(HfApi, "create_repo", unreachable)
    with pytest.raises(InputError, match=r"cannot be written to the Hugging Face Hub \(ConnectError: no route to host"):
        model.push_to_hub("somebody/breakout")


def test_checkpoint_of_format_version_1_is_read() -> None:
    path = DATA / "version_1" / "run" / "checkpoints" / "update-00000003"
    model = DecisionTransformer.from_pretrained(path)
    assert model.checkpoint_config == CheckpointConfig(
        model=ModelConfig(2, 1, 2, 16, dropout=0.1, conditioning="return", timestep_encoding="window_start"),
        num_actions=4,
        max_timestep=5,
        dataset=DatasetInfo(
            game="Breakout",
            action_meanings=("NOOP", "FIRE", "RIGHT", "LEFT"),
            reward_clipping=True,
            sticky_actions=0.25,
            max_return=5.0,
            mean_return=3.0,
            steps=22,
            episodes=5,
            max_score=21.0,
            mean_score=11.4,
            digest="75177a95f5f028ce4423a6c1111fa72289671495c71a396dd98ac2f995d8f3dd",
        ),
        training=TrainingConfig(
            max_updates=3, batch_size=4, precision="fp32", device="cpu", validation_fraction=0.2, top_percent=90.0
        ),
        evaluations=(),
    )
    weights = load_file(path / "model.safetensors")
    assert weights.keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())


def test_format_version_1_with_missing_settings_and_more_keys_per_evaluation_is_read(tmp_path: Path) -> None:
    shutil.copytree(DATA / "version_1" / "run" / "checkpoints" / "update-00000003", tmp_path / "checkpoint")
    file = tmp_path / "checkpoint" / "config.json"
    config = json.loads(file.read_text())
    for name in ("keep_checkpoints", "validation_fraction", "top_percent", "compile"):
        del config["training"][name]
    config["evaluations"] = [{**EVALUATION.to_json(), "returns": [1.0, 2.0, 3.0], "lengths": [9, 9, 9]}]
    file.write_text(json.dumps(config))
    model = DecisionTransformer.from_pretrained(tmp_path / "checkpoint")
    assert model.training_config == TrainingConfig(max_updates=3, batch_size=4, precision="fp32", device="cpu")
    assert model.evaluations == (EVALUATION,)


def test_saving_a_checkpoint_of_format_version_1_keeps_its_weights_byte_for_byte(tmp_path: Path) -> None:
    path = DATA / "version_1" / "run" / "checkpoints" / "update-00000003"
    model = DecisionTransformer.from_pretrained(path)
    model.save_pretrained(tmp_path / "again")
    weights = [directory / "model.safetensors" for directory in (path, tmp_path / "again")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    old, new = (json.loads((file.parent / "config.json").read_text()) for file in weights)
    defaults = {"model": ModelConfig().to_json(), "training": TrainingConfig().to_json()}  # of fields since then
    configs = {name: {**defaults[name], **old[name]} for name in defaults}
    assert new == {**old, "format_version": 2, **configs, "observation": FRAMES.to_json()}


def test_loaded_checkpoint_gives_the_same_logits(tmp_path: Path) -> None:
    model = small_model()
    model.save_pretrained(tmp_path / "checkpoint")
    loaded = DecisionTransformer.from_pretrained(tmp_path / "checkpoint")
    arguments = random_inputs()
    assert loaded.config == model.config
    assert torch.equal(model(*arguments).action_logits, loaded(*arguments).action_logits)
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint"]


def test_latest_checkpoint_is_the_newest_complete_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no run with a checkpoint"):
        latest_checkpoint(tmp_path)
    for update in (9, 100, 20):
        small_model().save_pretrained(tmp_path / "checkpoints" / f"update-{update:08d}")
    (tmp_path / "checkpoints" / "update-00000500").mkdir()
    newest = tmp_path / "checkpoints" / "update-00000100"
    assert latest_checkpoint(tmp_path) == newest
    assert latest_checkpoint(newest) == newest
    (tmp_path / "sweep").mkdir()
    (tmp_path / "checkpoints").rename(tmp_path / "sweep" / "checkpoints")
    (tmp_path / "sweep").rename(tmp_path / "training")
    with pytest.raises(InputError, match=f"is a run of a sweep or benchmark; give its .*, {tmp_path / 'training'}$"):
        latest_checkpoint(tmp_path)


def test_damaged_and_foreign_checkpoints_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    with pytest.raises(InputError, match="not a checkpoint"):
        DecisionTransformer.from_pretrained(path)
    small_model().save_pretrained(path)
    config, weights = path / "config.json", path / "model.safetensors"
    content, tensors = config.read_text(), weights.read_bytes()

    config.write_text(content.replace('"format_version": 2', '"format_version": 3'))
    with pytest.raises(InputError, match="has checkpoint format 3, but this version of the code reads 1 to 2"):
        DecisionTransformer.from_pretrained(path)
    for damaged in (
        content.replace('"embed_dim": 16', '"embed_dim": 32'),
        content.replace('"num_layers": 2', '"num_layers": 0'),
        content.replace('"evaluations": []', '"evaluations": [{"scores": []}]'),
        content.replace('"training": null', '"training": [1]'),
        content.replace('"dataset": null', '"dataset": "Breakout"'),
        content.replace('"context_length"', '"unknown setting"'),
        content[:-20],
        "[]",
    ):
        assert damaged != content
        config.write_text(damaged)
        with pytest.raises(InputError, match=f"the checkpoint {path} is damaged or from another project"):
            DecisionTransformer.from_pretrained(path)
    config.write_text(content)
    weights.write_bytes(tensors[:-1])
    with pytest.raises(InputError, match="damaged or from another project"):
        DecisionTransformer.from_pretrained(path)
