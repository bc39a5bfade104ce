"""push_to_hub.py: what it writes, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi, ModelCard
from safetensors.torch import load_file

from atari_dt.methods import load_model
from atari_dt.model import DecisionTransformer, ReportedEvaluation
from atari_dt.model.q_network import QNetwork
from atari_dt.policies.protocol import PROTOCOLS
from tests.atari_dt.models import DATASET
from tests.atari_dt.q_networks import CONFIGS, use_small_layers
from tests.releases import check_release
from tests.scripts.commands import Refuse, call


def test_a_run_is_shared_with_its_scores(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = tmp_path / "evaluation" / "scores.json", tmp_path / "shared"
    options = ("--episodes", 2, "--max-steps", 9, "--no-videos", "--out", file.parent)
    assert call(monkeypatch, "evaluate.py", run, *options) == 0
    assert call(monkeypatch, "push_to_hub.py", run, "--repo-id", "a/b", "--scores", file, "--out", out) == 0
    model = DecisionTransformer.from_pretrained(out)
    evaluations = json.loads(file.read_text())["runs"][0]["evaluations"]
    assert model.evaluations == tuple(map(ReportedEvaluation.from_json, evaluations))
    assert f"its card is {out / 'README.md'}" in capsys.readouterr().out
    scores = json.loads(file.read_text())
    check_half_precision_release(run, file, tmp_path / "half", monkeypatch)
    for name, value, message in (
        ("game", "Pong", "holds scores in Pong, but the model plays Breakout"),
        ("method", "cql", "holds scores of CQL, but the model is one of DT"),
        ("runs", [{"evaluations": [{"scores": []}]}], "holds no scores"),
        ("runs", 2 * scores["runs"], "holds scores of 2 runs"),
    ):
        file.write_text(json.dumps({**scores, name: value}))
        command = ("push_to_hub.py", run, "--repo-id", "a/b", "--scores", file, "--out", tmp_path / "other")
        assert call(monkeypatch, *command) == 1
        assert message in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == [file.parent, out]


def check_half_precision_release(run: Path, scores: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Check a release in bfloat16, and the command of its card for scores with settings of every kind; remove it."""
    content = scores.read_text()
    changed = json.loads(content)
    changed["protocol"] = {**changed["protocol"], **vars(PROTOCOLS["original"]), "sticky_actions": 0.5}
    changed["protocol"] |= {"second_reset": False, "window_timestep": "first"}
    changed |= {"sampling": {"temperature": 0.5, "top_k": 2}, "seed": 3}
    percentile, number, _ = changed["runs"][0]["evaluations"]
    percentile |= {"return_multiple": None, "return_percentile": 90}
    number |= {"return_multiple": None, "target_return": 7.25}
    scores.write_text(json.dumps(changed))
    command = ("push_to_hub.py", run, "--scores", scores, "--dtype", "bfloat16", "--license", "mit", "--out", out)
    assert call(monkeypatch, *command) == 0
    scores.write_text(content)
    check_release(out, out.name)
    assert {each.dtype for each in load_file(out / "model.safetensors").values()} == {torch.float32, torch.bfloat16}
    text = ModelCard.load(out / "README.md").text
    assert (
        f"python scripts/evaluate.py {out.name} --return-percentiles 90 --target-returns 7.25 --return-multiples 2 "
        "--protocol original --sticky-actions 0.5 --no-second-reset --window-timestep first --temperature 0.5 "
        "--top-k 2 --episodes 2 --max-steps 9 --seed 3\n"
        f"python scripts/visualize_attention.py {out.name} --out runs/{out.name}-page\n"
    ) in text
    shutil.rmtree(out)


def test_a_value_model_is_shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_small_layers(monkeypatch.setattr)
    QNetwork(CONFIGS["rem"], num_actions=4).save_pretrained(tmp_path / "run")
    assert call(monkeypatch, "push_to_hub.py", tmp_path / "run", "--repo-id", "a/b", "--out", tmp_path / "out") == 0
    assert load_model(tmp_path / "out").config == CONFIGS["rem"]
    assert "```bash" not in (tmp_path / "out" / "README.md").read_text()  # without data, there is no game to play
    model = load_model(tmp_path / "out")
    model.dataset = DATASET
    model.save_pretrained(tmp_path / "known")
    options = ("--repo-id", "a/b", "--dtype", "float16", "--out", tmp_path / "half")
    assert call(monkeypatch, "push_to_hub.py", tmp_path / "known", *options) == 0
    assert "python scripts/visualize_saliency.py half --out" in (tmp_path / "half" / "README.md").read_text()
    again, weights = load_model(tmp_path / "half").state_dict(), model.state_dict()
    assert again.keys() == weights.keys()
    assert all(
        torch.equal(again[name], weight.half().float() if weight.ndim >= 2 else weight)
        for name, weight in weights.items()
    )


def test_the_card_of_an_upload_says_how_to_download_it(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """huggingface_hub's own code runs between the command and these two requests."""
    uploaded: dict[str, str] = {}

    def create_repo(self: HfApi, repo_id: str, **options: object) -> object:
        return type("Repo", (), {"repo_id": repo_id})

    def upload_folder(self: HfApi, repo_id: str, folder_path: Path, **options: object) -> str:
        uploaded[repo_id] = (Path(folder_path) / "README.md").read_text()
        return "https://hub/commit"

    monkeypatch.setattr(HfApi, "create_repo", create_repo)
    monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
    assert call(monkeypatch, "push_to_hub.py", run, "--repo-id", "ann/breakout", "--license", "mit") == 0
    assert uploaded.keys() == {"ann/breakout"}
    assert (
        "hf download ann/breakout --local-dir breakout\npython scripts/evaluate.py breakout\n"
        in uploaded["ann/breakout"]
    )
    assert "The weights have the license mit." in uploaded["ann/breakout"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("{tmp}/nowhere --repo-id a/b", "no run with a checkpoint at {tmp}/nowhere"),
        ("{run} --repo-id a/b --scores {tmp}/no.json --out {tmp}/new", "{tmp}/no.json holds no scores"),
        ("{run} --repo-id a/b --out {store}", "{store} exists already"),
        ("{run} --dtype float16", "--repo-id is missing; name a repository to upload to, or give --out"),
        ("{run} --license MIT --out {tmp}/new", "--license must be a name that the Hub knows, such as mit"),
        ("{run} --repo-id a/b/c/d", "'a/b/c/d' cannot be written to the Hugging Face Hub"),
    ],
)
def test_bad_input_gets_one_sentence(refuse: Refuse, options: str, message: str) -> None:
    refuse("push_to_hub.py", options, message)
