"""Weights as people save them, damaged ones, and files that are made to do harm."""

from __future__ import annotations

import argparse
import gzip
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from atari_dt.config import ModelConfig
from atari_dt.model.decision_transformer import DecisionTransformer
from atari_dt.model.loading import load_torch_file
from atari_dt.model.weights import network_shapes
from replay_data import InputError
from tests.atari_dt.model.networks import ORIGINAL_CHECKPOINT, small_model

Weights = dict[str, Tensor]

NAN, INF = float("nan"), float("inf")

read = DecisionTransformer.from_original_checkpoint


@pytest.fixture
def weights() -> Weights:
    """The state dict of an original network with two blocks and D = 32."""
    state_dict: Weights = torch.load(ORIGINAL_CHECKPOINT, weights_only=True)
    return state_dict


def prefixed(prefix: str, weights: Weights) -> Weights:
    return {prefix + name: tensor for name, tensor in weights.items()}


OPTIMIZER = {
    "state": {0: {"step": torch.tensor(1.0), "exp_avg": torch.ones(3), "exp_avg_sq": torch.ones(3)}},
    "param_groups": [{"lr": 1e-3, "betas": (0.9, 0.95), "params": [0]}],
}

SAVED: dict[str, Callable[[Weights], object]] = {
    "state_dict": lambda w: {"state_dict": w, "epoch": 3},
    "model beside an optimizer": lambda w: {"model": w, "optimizer": OPTIMIZER, "losses": [0.5, 0.25]},
    "model_state_dict": lambda w: {"model_state_dict": w, "rng": torch.get_rng_state()},
    "two levels": lambda w: {"checkpoint": {"network": w}},
    "under two names": lambda w: {"model": w, "best": w},
    "beside options": lambda w: {"model": w, "args": argparse.Namespace(lr=0.1, betas=(0.9, 0.95))},
    "beside numbers": lambda w: {**w, "epoch": 3},
    "compiled": lambda w: prefixed("_orig_mod.", w),
    "parallel, then compiled": lambda w: prefixed("_orig_mod.module.", w),
    "compiled, then parallel": lambda w: prefixed("module._orig_mod.", w),
    "compiled blocks": lambda w: {name.replace("blocks.1.", "blocks.1._orig_mod."): each for name, each in w.items()},
    "Lightning": lambda w: {"state_dict": {**prefixed("model.", w), "metric.total": torch.ones(1)}, "loops": {}},
    "everything": lambda w: {"state_dict": prefixed("module.agent._orig_mod.", w)},
    "views": lambda w: {name: torch.stack([tensor, tensor], -1)[..., 0] for name, tensor in w.items()},
}


@pytest.mark.parametrize("save", SAVED.values(), ids=SAVED)
def test_weights_are_found_wherever_they_are(
    save: Callable[[Weights], object], weights: Weights, tmp_path: Path
) -> None:
    torch.save(save(weights), tmp_path / "saved.pt")
    check_equal(tmp_path / "saved.pt")


def test_other_formats_are_read_whatever_they_are_called(weights: Weights, tmp_path: Path) -> None:
    torch.save(weights, tmp_path / "legacy.bin", _use_new_zipfile_serialization=False)
    contiguous = {name: tensor.contiguous() for name, tensor in weights.items()}
    save_file(contiguous, tmp_path / "model.safetensors")
    save_file(prefixed("module.", contiguous), tmp_path / "misnamed.pth")
    for path in tmp_path.iterdir():
        check_equal(path)


def check_equal(path: Path) -> None:
    """Check that the weights in ``path`` are those of `ORIGINAL_CHECKPOINT`."""
    found, expected = read(path).state_dict(), read(ORIGINAL_CHECKPOINT).state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_weights_of_other_precision_become_float32(dtype: torch.dtype, weights: Weights, tmp_path: Path) -> None:
    torch.save({name: tensor.to(dtype) for name, tensor in weights.items()}, tmp_path / "saved.pth")
    found = read(tmp_path / "saved.pth").state_dict()
    assert torch.equal(found["head.weight"], weights["head.weight"].to(dtype).float())
    qkv = [weights[f"blocks.1.attn.{name}.weight"].to(dtype).float() for name in ("query", "key", "value")]
    assert torch.equal(found["transformer.blocks.1.attention.qkv.weight"], torch.cat(qkv))


@pytest.mark.parametrize(
    ("name", "value", "dtype"),
    [
        ("head.weight", NAN, torch.float32),
        ("state_encoder.7.bias", INF, torch.float32),
        ("blocks.1.attn.key.weight", -INF, torch.float16),
        ("global_pos_emb", NAN, torch.bfloat16),
        ("blocks.0.attn.mask", NAN, torch.float32),
        ("pos_emb", 1e39, torch.float64),  # infinite as float32
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_one_value_that_is_not_finite_is_refused(
    name: str, value: float, dtype: torch.dtype, suffix: str, weights: Weights, tmp_path: Path
) -> None:
    changed = {each: tensor.contiguous() for each, tensor in weights.items()}
    changed[name] = changed[name].to(dtype)
    changed[name].view(-1)[-1] = value
    path = tmp_path / f"saved{suffix}"
    save_file(changed, path) if suffix == ".safetensors" else torch.save(changed, path)
    with pytest.raises(InputError, match=rf"not finite: 1 of the {changed[name].numel():,} values of {name} are NaN"):
        read(path)


CHANGES: dict[str, tuple[Callable[[Weights], object], str]] = {
    "number": (lambda w: {**w, "head.weight": 5}, "it lacks head.weight"),
    "missing": (
        lambda w: {name: each for name, each in w.items() if not name.startswith("state_encoder")},
        "it lacks state_encoder.0.weight, state_encoder.0.bias, state_encoder.2.weight and 5 more;",
    ),
    "unknown": (lambda w: {**w, "critic.weight": torch.ones(3)}, "it also has critic.weight;"),
    "third block": (lambda w: {**w, "blocks.2.ln1.weight": torch.ones(32)}, "it lacks blocks.2.ln1.bias"),
    "off by one": (lambda w: {**w, "ln_f.bias": torch.ones(33)}, r"ln_f.bias has shape \[33\], not \[32\]"),
    "key": (
        lambda w: {**w, "blocks.0.attn.key.weight": torch.ones(32, 31)},
        r"blocks.0.attn.key.weight has shape \[32, 31\], not \[32, 32\]",
    ),
    "flat": (lambda w: {**w, "pos_emb": torch.ones(31)}, r"pos_emb has shape \[31\], not 3 dimensions"),
    "no actions": (lambda w: {**w, "head.weight": torch.ones(0, 32)}, r"head.weight has shape \[0, 32\]"),
    "integers": (lambda w: {**w, "head.weight": torch.ones(4, 32, dtype=torch.int64)}, "head.weight has dtype int64"),
    "complex": (lambda w: {**w, "head.weight": w["head.weight"] * 1j}, "head.weight has dtype complex64"),
    "sparse": (lambda w: {**w, "head.weight": w["head.weight"].to_sparse()}, "head.weight is not a dense tensor"),
    "meta": (lambda w: {**w, "head.weight": w["head.weight"].to("meta")}, "head.weight is not a dense tensor"),
    "repeated": (
        lambda w: {**w, "global_pos_emb": torch.zeros(1).expand(1, 40_000_000, 32)},
        r"its tensors have 5,1\d\d,\d\d\d,\d\d\d bytes, more than the file",
    ),
    "two networks": (
        lambda w: {"model": w, "ema": {name: tensor.clone() for name, tensor in w.items()}},
        "it holds several networks, in ema, model",
    ),
    "two prefixes": (lambda w: {**prefixed("actor.", w), **prefixed("target.", w)}, "in actor, target"),
    "twice": (lambda w: {**w, **prefixed("module.", w)}, "it holds pos_emb twice"),
    "other network": (lambda w: {"conv.weight": w["head.weight"], "epoch": 1}, "its names are conv.weight, epoch;"),
    "list": (lambda w: [w], "it is no dictionary of tensors"),
}


@pytest.mark.parametrize(("change", "reason"), CHANGES.values(), ids=CHANGES)
def test_other_weights_are_refused_with_a_reason(
    change: Callable[[Weights], object], reason: str, weights: Weights, tmp_path: Path
) -> None:
    torch.save(change(weights), tmp_path / "saved.pth")
    with pytest.raises(InputError, match=f"is damaged or holds no state dict of the original network: .*{reason}"):
        read(tmp_path / "saved.pth")


class Network(nn.Module):
    """A module that is pickled whole."""


def test_python_objects_are_not_unpickled(weights: Weights, tmp_path: Path) -> None:
    path = tmp_path / "saved.pth"
    for content, name, options in (
        (Network(), r"\(tests.atari_dt.model.test_hostile_weights.Network\)", {}),
        (
            Network(),
            r"\(tests.atari_dt.model.test_hostile_weights.Network\)",
            {"_use_new_zipfile_serialization": False},
        ),
        ({"model": weights, "args": PurePosixPath("data")}, r"\(pathlib.PurePosixPath\)", {}),
        ({"model": weights, "raw": bytearray(3)}, r"\(__builtin__.bytearray, _codecs.encode\)", {}),
        (Network(), "", {"pickle_protocol": 4}),
    ):
        torch.save(content, path, **options)
        with pytest.raises(
            InputError, match=f"holds pickled Python objects ?{name}, not only tensors; where it"
        ) as info:
            read(path)
        message = str(info.value)
        assert 'save the weights alone with torch.save(model.state_dict(), "weights.pth")' in message
        assert message.isprintable()
        assert "weights_only" not in message
        assert "trust" not in message


PICKLES = {
    "a trillion bytes": b"c__builtin__\nbytearray\n\x8a\x06\0\0\0\0\0\1\x85R.",
    "a command": b"cos\nsystem\nX\x05\0\0\0false\x85R.",
    "a tuple in a tuple in …": b"}N" + b"\x85" * 1_000_000 + b"Ns.",  # its hash would overflow the stack
    "a million values": b"](" + b"N" * 1_000_000 + b"e.",
    "a long text": b"X" + struct.pack("<I", 3 << 20) + b"a" * (3 << 20) + b".",
    "a text that is not there": b"X" + struct.pack("<I", 2**32 - 1) + b"a.",
}


@pytest.mark.parametrize("content", PICKLES.values(), ids=PICKLES)
def test_pickles_that_do_harm_are_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "saved.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("saved/data.pkl", b"\x80\2" + content)
        archive.writestr("saved/version", "3\n")
    with pytest.raises(ValueError, match=r"cannot be read as a file of torch.save|pickled Python objects"):
        load_torch_file(path)
    path.write_bytes(b"\x80\2" + content)  # as a file of PyTorch before 1.6
    with pytest.raises(ValueError, match=r"cannot be read as a file of torch.save|pickled Python objects"):
        load_torch_file(path)


def test_compressed_and_overlapping_parts_are_refused(weights: Weights, tmp_path: Path) -> None:
    torch.save(weights, tmp_path / "saved.pth")
    with zipfile.ZipFile(tmp_path / "saved.pth") as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    with zipfile.ZipFile(tmp_path / "overlap.pth", "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
        largest = max(archive.infolist(), key=lambda part: part.file_size)
        for i in range(9):
            archive.filelist.append(largest)
            archive.NameToInfo[f"saved/data/x{i}"] = largest
    for name in ("bomb.pth", "overlap.pth"):
        with pytest.raises(InputError, match=r"cannot be read as a file of torch.save"):
            read(tmp_path / name)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "it is a Git LFS pointer"),
        (b"\n<!DOCTYPE html><html></html>", "it is a web page"),
        (gzip.compress(bytes(100), mtime=0), "it is compressed with gzip"),
    ],
)
def test_well_known_files_in_place_of_weights_are_named(content: bytes, reason: str, tmp_path: Path) -> None:
    for name in ("saved.pth", "model.safetensors"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=f"{name} .*{reason}"):
            read(tmp_path / name)


def test_only_regular_files_of_plausible_size_are_read(tmp_path: Path) -> None:
    (tmp_path / "directory.pth").mkdir()
    os.mkfifo(tmp_path / "fifo.pth")
    for name, size in (("huge.pth", 1 << 40), ("zeros.pth", 1 << 20), ("empty.pth", 0)):
        with (tmp_path / name).open("wb") as file:
            file.truncate(size)
    (tmp_path / "pickle.pth").write_bytes(pickle.dumps({"pos_emb": [1.0]}))
    (tmp_path / "header.safetensors").write_bytes(struct.pack("<Q", 1 << 60) + b"{}")
    header = json.dumps({"pos_emb": {"dtype": "F32", "shape": [1, 1 << 40, 8], "data_offsets": [0, 1 << 45]}}).encode()
    (tmp_path / "shape.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    for name, reason in (
        ("directory.pth", "is a directory, not a file"),
        ("fifo.pth", "is a named pipe, a device or a socket"),
        ("huge.pth", "has 1,099,511,627,776 bytes, but a file of its kind has at most"),
        ("zeros.pth", "cannot be read as a file of torch.save"),
        ("empty.pth", "cannot be read as a file of torch.save"),
        ("pickle.pth", "cannot be read as a file of torch.save"),
        ("header.safetensors", "cannot be read as a safetensors file"),
        ("shape.safetensors", "cannot be read as a safetensors file"),
    ):
        with pytest.raises(InputError, match=f"{name} .*{reason}"):
            read(tmp_path / name)


@pytest.mark.parametrize("conditioning", ["return", "none"])
def test_shapes_of_a_network_are_known_before_it_is_built(conditioning: Any) -> None:
    config = ModelConfig(3, 12, 2, 16, conditioning=conditioning)
    network = DecisionTransformer(config, 7, 50)
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    state = torch.get_rng_state()
    shapes = network_shapes(lambda each: DecisionTransformer(each, 7, 50), config, len(expected))
    assert shapes == expected
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("section", "name", "value", "reason"),
    [
        ("model", "num_layers", 10**9, "the network has 1,000,000,000 layers, but there are only 40 tensors"),
        ("model", "num_layers", 3, "it lacks transformer.blocks.2.attention_norm.weight"),
        ("model", "num_layers", 1, "it also has transformer.blocks.1."),
        ("model", "embed_dim", 2**62, "a network of these sizes is impossible"),
        ("model", "embed_dim", 10**6, r"has shape \[.*\], not \[.*1000000"),
        ("model", "context_length", 10**12, r"position_embedding has shape \[13, 16\], not \[3000000000001, 16\]"),
        ("model", "num_heads", None, "num_heads"),
        ("model", "dropout", NAN, "dropout is nan"),
        (None, "max_timestep", 10**15, r"timestep_embedding has shape \[51, 16\]"),
        (None, "max_timestep", -1, "max_timestep is -1"),
        (None, "num_actions", "5", "num_actions is '5'"),
        (None, "num_actions", 4, "num_actions is 4, but there are 5 action_meanings"),
        (None, "num_actions", True, "num_actions is True"),
        ("dataset", "game", 5, "game is 5"),
        ("dataset", "game", "../Breakout", "game is '../Breakout'"),
        ("dataset", "action_meanings", "NOOP!", "action_meanings is 'NOOP!', not a list"),
        ("dataset", "action_meanings", [0, 1, 2, 3, 4], "an item of action_meanings is 0"),
        ("dataset", "sticky_actions", 7, "sticky_actions is 7.0, but must be between 0 and 1"),
        ("dataset", "max_return", NAN, "max_return is nan"),
        ("training", "batch_size", 8.5, "batch_size is 8.5"),
        ("training", "seed", "1", "seed is '1'"),
    ],
)
def test_impossible_configs_are_refused_before_a_network_is_built(
    section: str | None, name: str, value: object, reason: str, checkpoint: Path
) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    changed = config if section is None else config[section]
    assert name in changed
    if value is None:
        del changed[name]
    else:
        changed[name] = value
    (checkpoint / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=rf"the checkpoint .* is damaged or from another project \(.*{reason}"):
        DecisionTransformer.from_pretrained(checkpoint)


def test_checkpoints_with_other_weights_are_refused(checkpoint: Path) -> None:
    file = checkpoint / "model.safetensors"
    model = small_model()
    for value in (NAN, INF, -INF):
        weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        weights["transformer.blocks.0.mlp_norm.bias"][3] = value
        save_file(weights, file)
        with pytest.raises(
            InputError, match=r"of the checkpoint .* are not finite: 1 of the 16 values of .*mlp_norm.bias"
        ):
            DecisionTransformer.from_pretrained(checkpoint)
    weights = {**model.state_dict(), "head.weight": torch.ones(5, 16, dtype=torch.int32)}
    save_file(weights, file)
    with pytest.raises(InputError, match=r"head.weight has dtype int32"):
        DecisionTransformer.from_pretrained(checkpoint)
    file.write_bytes(struct.pack("<Q", 1 << 60) + b"{}")
    with pytest.raises(InputError, match=r"cannot be read as a safetensors file"):
        DecisionTransformer.from_pretrained(checkpoint)
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(InputError, match="is not a checkpoint"):
        DecisionTransformer.from_pretrained(checkpoint)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A checkpoint of `small_model`, with the data and the settings of the checkpoint of format version 1."""
    source = ORIGINAL_CHECKPOINT.parents[1] / "version_1" / "run" / "checkpoints" / "update-00000003"
    described = DecisionTransformer.from_pretrained(source)
    path = tmp_path / "checkpoint"
    small_model().save_pretrained(path)
    config = json.loads((path / "config.json").read_text())
    config["dataset"] = json.loads((source / "config.json").read_text())["dataset"]
    config["dataset"]["action_meanings"].append("UP")
    config["training"] = json.loads((source / "config.json").read_text())["training"]
    (path / "config.json").write_text(json.dumps(config))
    assert DecisionTransformer.from_pretrained(path).training_config == described.training_config
    return path
