"""Agents on the Hugging Face Hub, which a local server stands in for; huggingface_hub's own code runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants, hf_hub_download

from atari_dt.collection.policies import hub as hub_module
from atari_dt.collection.policies.loading import load_policies
from atari_dt.games.catalogue import find_game
from replay_data import InputError
from tests.atari_dt.collection.policies.hub_server import COMMIT, Hub, serve
from tests.atari_dt.collection.policies.saved_agents import write_agent

BREAKOUT = find_game("Breakout")
ZOO = "sb3/dqn-BreakoutNoFrameskip-v4"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    agent = write_agent(tmp_path / "agent.zip").read_bytes()
    others = {"README.md": b"", "config.yml": b"!!python/object", "train_eval_metrics.zip": b"PK", "x/policy.zip": b""}
    hub = Hub(
        {
            ZOO: {"dqn-BreakoutNoFrameskip-v4.zip": agent, **others},
            "ann/breakout": {"agent.zip": agent},
            "ann/many": {"many.zip": agent, "rl_model_1000_steps.zip": b""},
            "ann/several": {"a.zip": agent, "b.zip": agent},
            "ann/other": {"a2c-PongNoFrameskip-v4.zip": agent},
            "ann/empty": {"train_eval_metrics.zip": b"", "model.safetensors": b""},
            "ann/gated": {"agent.zip": agent},
        },
        gated={"ann/gated"},
    )
    with serve(hub, tmp_path / "cache"):
        yield hub


def load_name(name: str) -> str:
    (policy,) = load_policies([name], BREAKOUT, 4, "cpu")
    return policy.name


def test_agents_are_downloaded_once_and_named_by_their_commit(hub: Hub) -> None:
    assert load_name(ZOO) == f"{ZOO}@{COMMIT}"
    assert load_name("ann/breakout@main") == f"ann/breakout@{COMMIT}"
    assert load_name("ann/many") == f"ann/many@{COMMIT}"  # the file with the name of the repository
    gets = [request for request in hub.requests if request.startswith("GET") and "/resolve/" in request]
    assert len(gets) == 3
    assert all(request.endswith((".zip",)) for request in gets)
    assert load_name(f"{ZOO}@{COMMIT}") == f"{ZOO}@{COMMIT}"
    assert len([request for request in hub.requests if request.startswith("GET /sb3/")]) == 1


@pytest.mark.parametrize("name", [ZOO, f"{ZOO}@{COMMIT}"])
def test_downloaded_agents_are_read_without_the_network(name: str, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    load_name(ZOO)
    del hub.repositories[ZOO]
    assert load_name(name) == f"{ZOO}@{COMMIT}"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    num_requests = len(hub.requests)
    assert load_name(name) == f"{ZOO}@{COMMIT}"
    assert len(hub.requests) == num_requests


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (
            "ann/missing",
            r"'ann/missing' cannot be read from this machine or the Hugging Face Hub \(it does not exist, or",
        ),
        ("ann/breakout@v2", r"'ann/breakout@v2' cannot be read .* the Hugging Face Hub \(it has no such revision\);"),
        ("ann/gated", r"'ann/gated' cannot be read from this machine or the Hugging Face Hub \(it is gated; accept"),
        ("ann/empty", "ann/empty holds no zip file, so no agent of Stable-Baselines3;"),
        ("ann/several", r"ann/several holds several zip files, a\.zip, b\.zip;"),
        ("ann/other", f"the agent ann/other@{COMMIT} was trained on Pong, not Breakout, by the name a2c-Po"),
        ("ann/dqn-PongNoFrameskip-v4", "the agent ann/dqn-PongNoFrameskip-v4 was trained on Pong, not Breakout, by"),
        ("dqn", "there is no agent 'dqn'; give a file of Stable-Baselines3, or a repository"),
        ("https://huggingface.co/sb3/dqn", "there is no agent 'https"),
    ],
)
def test_unusable_repositories_are_refused_with_one_sentence(name: str, reason: str, hub: Hub) -> None:
    with pytest.raises(InputError, match=f"^{reason}") as error:
        load_name(name)
    assert "\n" not in str(error.value)


def test_network_problems_are_one_sentence(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.portal = True
    with pytest.raises(InputError, match=f"^the answer about {ZOO} does not come from the Hugging Face Hub; check the"):
        load_name(ZOO)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(InputError, match=f"^'{ZOO}' cannot be read from this machine or the Hugging Face Hub"):
        load_name(ZOO)


def test_a_cache_without_the_agent_does_not_hide_a_network_problem(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hf_hub_download(ZOO, "README.md")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(InputError, match=f"^'{ZOO}' cannot be read from this machine or the Hugging Face Hub"):
        load_name(ZOO)


def test_broken_downloads_are_continued(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    hub.break_after = 0
    with pytest.raises(InputError, match=f"^'{ZOO}' cannot be read from this machine or the Hugging Face Hub"):
        load_name(ZOO)
    hub.break_after = 100_000
    assert load_name(ZOO) == f"{ZOO}@{COMMIT}"
    assert hub.offsets[-4:] == [0, 100_000, 200_000, 300_000]


def test_damaged_downloads_are_named(hub: Hub) -> None:
    load_name(ZOO)
    (cached,) = (path for path in Path(constants.HF_HUB_CACHE).rglob("blobs/*") if path.stat().st_size > 1000)
    cached.write_bytes(cached.read_bytes()[:-1])
    with pytest.raises(InputError, match=f"^the agent {ZOO}@{COMMIT} cannot be read: .*; delete {cached} to downl"):
        load_name(ZOO)
    cached.unlink()
    assert load_name(ZOO) == f"{ZOO}@{COMMIT}"


def test_files_too_large_for_agents_are_not_downloaded(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_module, "MAX_ZIP_BYTES", 1000)
    with pytest.raises(InputError, match=r"^dqn-BreakoutNoFrameskip-v4\.zip of sb3/dqn.* bytes, but an agent has at"):
        load_name(ZOO)
    assert not any("/resolve/" in request for request in hub.requests)
