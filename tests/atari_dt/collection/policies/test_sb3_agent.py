"""Agents that cannot be played, damaged files, and files that are made to do harm."""

from __future__ import annotations

import base64
import hashlib
import os
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from atari_dt.collection.policies import sb3_zip
from atari_dt.collection.policies.loading import load_policies
from atari_dt.collection.policies.policy import TrainedPolicy
from atari_dt.games.catalogue import find_game
from replay_data import InputError
from tests.atari_dt.collection.policies.saved_agents import (
    DATA,
    Weights,
    dqn_weights,
    network,
    to_bytes,
    write_agent,
)

BREAKOUT = find_game("Breakout")


def load(path: Path) -> TrainedPolicy:
    (policy,) = load_policies([str(path)], BREAKOUT, 4, "cpu")
    return policy


def renamed(weights: Weights, old: str, new: str) -> Weights:
    return {name.replace(old, new): tensor for name, tensor in weights.items()}


def with_tensor(name: str, tensor: object) -> dict[str, object]:
    return {**dqn_weights(), name: tensor}


def with_kwargs(**kwargs: object) -> dict[str, Any]:
    return {**DATA, "policy_kwargs": kwargs}


class Touch:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_pickles_are_never_executed(tmp_path: Path) -> None:
    harm = tmp_path / "harm"
    pickled = pickle.dumps(Touch(harm))
    encoded = {":type:": "<class 'dict'>", ":serialized:": base64.b64encode(pickled).decode()}
    data = dict.fromkeys(("policy_class", "policy_kwargs", "observation_space", "lr_schedule"), encoded)
    assert load(write_agent(tmp_path / "data.zip", data=data)).choose_actions(np.zeros((3, 4, 84, 84), np.uint8)).size
    for name, policy in (
        ("torch", to_bytes(Touch(harm))),
        ("weights", to_bytes({**dqn_weights(), "q_net.extra": Touch(harm)})),
        ("pickle", pickled),
    ):
        with pytest.raises(InputError, match=r"\.zip cannot be read: its policy\.pth is "):
            load(write_agent(tmp_path / f"{name}.zip", policy))
    assert not harm.exists()
    pickle.loads(pickled)  # which would have created it
    assert harm.exists()


def test_digest_is_that_of_the_file(tmp_path: Path) -> None:
    path = write_agent(tmp_path / "agent.zip")
    policy = load(path)
    assert policy.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (policy.name, policy.needs_fire) == ("agent.zip", True)  # a shared recording names no directory


def test_compressed_files_and_files_without_data_are_read(tmp_path: Path) -> None:
    states = np.random.default_rng(0).integers(0, 256, (8, 4, 84, 84), np.uint8)
    expected = load(write_agent(tmp_path / "stored.zip")).choose_actions(states)
    for path in (
        write_agent(tmp_path / "deflated.zip", compression=zipfile.ZIP_DEFLATED),
        write_agent(tmp_path / "weights_alone.zip", data=None),
    ):
        np.testing.assert_array_equal(load(path).choose_actions(states), expected)


UNSUITABLE: dict[str, tuple[object, Any, str]] = {
    "actions": (dqn_weights(18), DATA, "it chooses among 18 actions, but the game has 4;"),
    "quantiles": (
        renamed(dqn_weights(18 * 200), "q_net", "quantile_net"),
        DATA,
        "it chooses among 18 actions, but the game has 4;",
    ),
    "number of quantiles": (
        renamed(dqn_weights(4 * 7), "q_net", "quantile_net"),
        with_kwargs(n_quantiles=8),
        "it chooses among 3.5 actions, but the game has 4;",
    ),
    "one frame": (
        with_tensor("q_net.features_extractor.cnn.0.weight", torch.zeros(32, 1, 8, 8)),
        DATA,
        r"its images have 1 channel\(s\), not 4;",
    ),
    "color": (
        with_tensor("q_net.features_extractor.cnn.0.weight", torch.zeros(32, 12, 8, 8)),
        DATA,
        r"its images have 12 channel\(s\), not 4;",
    ),
    "image size": (
        with_tensor("q_net.features_extractor.linear.0.weight", torch.zeros(4, 22528)),
        DATA,
        "it reads images of another size than 84×84 pixels;",
    ),
    "MlpPolicy": (
        network("q_net.q_net.", {"0": (64, 4), "2": (4, 64)}),
        DATA,
        r"its tensors are those of another algorithm or policy \(q_net.q_net.0.bias, .* and 1 more\);",
    ),
    "SAC": (
        renamed(dqn_weights(), "q_net.", "actor."),
        DATA,
        r"its tensors are those of another algorithm or policy \(actor.actor.0.bias, .* and 17 more\);",
    ),
    "RecurrentPPO": (
        {**renamed(dqn_weights(), "q_net.features", "pi_features"), "lstm_actor.weight_ih_l0": torch.zeros(4, 4)},
        DATA,
        r"it has an LSTM \(RecurrentPPO\);",
    ),
    "normalization": (
        with_tensor("q_net.q_net.1.running_mean", torch.zeros(4)),
        DATA,
        "its network is not that of CnnPolicy: it also has q_net.q_net.1.running_mean;",
    ),
    "missing": (
        {name: tensor for name, tensor in dqn_weights().items() if name != "q_net.features_extractor.cnn.2.bias"},
        DATA,
        "its network is not that of CnnPolicy: it lacks q_net.features_extractor.cnn.2.bias;",
    ),
    "first layer missing": (
        {name: tensor for name, tensor in dqn_weights().items() if "cnn.0.weight" not in name},
        DATA,
        "its network is not that of CnnPolicy: it lacks q_net.features_extractor.cnn.0.weight;",
    ),
    "another kernel": (
        with_tensor("q_net.features_extractor.cnn.2.weight", torch.zeros(64, 32, 3, 3)),
        DATA,
        r"its network is not that of CnnPolicy: .*cnn.2.weight has shape \[64, 32, 3, 3\], not \[64, 32, 4, 4\];",
    ),
    "features extractor": (
        dqn_weights(),
        with_kwargs(features_extractor_class="<class '__main__.Impala'>"),
        "it reads pixels with another network than NatureCNN;",
    ),
    "policy class": (
        dqn_weights(),
        {"policy_class": {"__module__": "__main__"}},
        "the class of its policy is not part of Stable-Baselines3 or sb3-contrib;",
    ),
    "activation": (
        dqn_weights(hidden=(5,)),
        with_kwargs(activation_fn="<class 'torch.nn.modules.activation.ELU'>"),
        "the activation of its hidden layers is neither ReLU nor Tanh;",
    ),
    "activation without data": (
        dqn_weights(hidden=(5,)),
        None,
        "it has hidden layers, but no data that names their activation;",
    ),
    "size": (
        with_tensor("q_net.features_extractor.linear.0.weight", torch.zeros(1, 1).expand(100_000, 3136)),
        DATA,
        "its network has 1,25.*bytes;",
    ),
}


@pytest.mark.parametrize(("policy", "data", "reason"), UNSUITABLE.values(), ids=UNSUITABLE)
def test_unsuitable_agents_are_refused_with_one_sentence(
    policy: object, data: Any, reason: str, tmp_path: Path
) -> None:
    path = write_agent(tmp_path / "agent.zip", policy, data)
    with pytest.raises(InputError, match=f"^the agent {path} cannot be played: {reason} use one that DQN, ") as error:
        load(path)
    assert "trained on Breakout" in str(error.value)
    assert "\n" not in str(error.value)


DAMAGED: dict[str, tuple[object, Any, str]] = {
    "NaN": (
        with_tensor("q_net.q_net.0.bias", torch.tensor([0, 0, 0, torch.nan])),
        DATA,
        "1 of the 4 values of q_net.q_net.0.bias are NaN or infinite;",
    ),
    "integers": (
        with_tensor("q_net.q_net.0.bias", torch.zeros(4, dtype=torch.int64)),
        DATA,
        "q_net.q_net.0.bias has dtype int64, not a floating-point type;",
    ),
    "number": (with_tensor("q_net.q_net.0.bias", 3), DATA, "q_net.q_net.0.bias is of type int, not a tensor;"),
    "list": ([torch.zeros(3)], DATA, "its policy.pth is not a state dict;"),
    "damaged policy": (to_bytes(dqn_weights())[:-500], DATA, "its policy.pth is damaged: it cannot be read as a file "),
    "text as data": (dqn_weights(), b"\xff{", "its data is not what Stable-Baselines3 writes"),
    "list as data": (dqn_weights(), [1], "its data is not what Stable-Baselines3 writes"),
    "nested data": (dqn_weights(), b"[" * 100_000, "its data is not what Stable-Baselines3 writes"),
    "setting": (dqn_weights(), with_kwargs(n_quantiles=-1), r".*\(n_quantiles is -1\);"),
    "type of setting": (dqn_weights(), with_kwargs(normalize_images="yes"), r".*normalize_images is 'yes', not"),
}


@pytest.mark.parametrize(("policy", "data", "reason"), DAMAGED.values(), ids=DAMAGED)
def test_damaged_agents_are_refused_with_one_sentence(policy: object, data: Any, reason: str, tmp_path: Path) -> None:
    path = write_agent(tmp_path / "agent.zip", policy, data)
    with pytest.raises(InputError, match=f"^the agent {path} cannot be read: {reason}") as error:
        load(path)
    assert str(error.value).endswith("; copy it again")


def test_other_files_are_refused(tmp_path: Path) -> None:
    agent = write_agent(tmp_path / "agent.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("monitor.csv", "r,l,t")
    (tmp_path / "half.zip").write_bytes(agent[: len(agent) // 2])
    (tmp_path / "pointer.zip").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    (tmp_path / "flipped.zip").write_bytes(agent.replace(b"policy_kwargs", b"policy_kwargz", 1))
    for name, reason in {
        "other": "it is a zip file without policy.pth",
        "half": "it cannot be read as a zip file of Stable-Baselines3",
        "pointer": "it is a Git LFS pointer",
        "flipped": "its data is damaged",
    }.items():
        with pytest.raises(InputError, match=rf"{name}\.zip cannot be read: {reason}"):
            load(tmp_path / f"{name}.zip")
    for name, content in (("my_agent.py", b"import torch"), ("Breakout.pt", (tmp_path / "other.zip").read_bytes())):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(
            InputError, match=rf"{name} cannot be read: .*; give a zip file that .*'s model\.save wrote;"
        ):
            load(tmp_path / name)
    (tmp_path / "directory.zip").mkdir()
    os.mkfifo(tmp_path / "pipe.zip")
    for name, reason in {
        "directory": "is a directory",
        "pipe": "is a named pipe",
        "missing": "there is no file",
    }.items():
        with pytest.raises(InputError, match=reason):
            load(tmp_path / f"{name}.zip")


def test_bombs_are_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes are limited as declared, and as unpacked."""
    monkeypatch.setattr(sb3_zip, "_MAX_POLICY_BYTES", 4 << 20)
    zeros = bytes(8 << 20)
    bomb = write_agent(tmp_path / "declared.zip", zeros, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(InputError, match=r"its policy\.pth has 8,388,608 bytes, but one of an agent has at most 4,194"):
        load(bomb)
    content = bomb.read_bytes()
    (tmp_path / "lies.zip").write_bytes(content.replace(struct.pack("<L", len(zeros)), struct.pack("<L", 1 << 20)))
    with pytest.raises(InputError, match=r"its policy\.pth is damaged"):
        load(tmp_path / "lies.zip")
    for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        with pytest.raises(InputError, match="compressed by a method that Stable-Baselines3 does not use"):
            load(write_agent(tmp_path / "method.zip", b"0", compression=method))


def test_names_of_other_games_are_refused(tmp_path: Path) -> None:
    for name in ("ppo-PongNoFrameskip-v4", "Pong-v5", "ALE-Pong-v5_1", "dqn_PongDeterministic-v4"):
        with pytest.raises(InputError, match=rf"was trained on Pong, not Breakout, by the name {name}\.zip; record"):
            load(write_agent(tmp_path / f"{name}.zip"))
    for name in ("dqn-BreakoutNoFrameskip-v4", "breakout-v5", "model-v2", "ALE-Breakout-v5"):
        assert load(write_agent(tmp_path / f"{name}.zip")).digest
