"""Checkpoints whose matrices are stored in half precision."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file

from atari_dt.config import ModelConfig
from atari_dt.methods import load_model
from atari_dt.model.decision_transformer import DecisionTransformer
from replay_data import InputError
from replay_data.observation import RAM
from tests.atari_dt.model.networks import random_inputs, small_model
from tests.atari_dt.trajectory_models import small_trajectory_transformer

MANTISSA_BITS = {torch.bfloat16: 7, torch.float16: 10}


def round_by_hand(value: float, mantissa_bits: int) -> float:
    """Round to the nearest number with so many bits after the leading one, and to an even last bit if two are near."""
    if value == 0:
        return 0.0
    unit = 2.0 ** (math.floor(math.log2(abs(value))) - mantissa_bits)
    return round(value / unit) * unit  # Python's round() takes the even one of two


@pytest.mark.parametrize("dtype", MANTISSA_BITS)
def test_matrices_are_rounded_and_everything_else_is_exact(dtype: torch.dtype, tmp_path: Path) -> None:
    model = small_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.weights_dtype = dtype
    model.save_pretrained(tmp_path / "half")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())

    stored = load_file(tmp_path / "half" / "model.safetensors")
    loaded = DecisionTransformer.from_pretrained(tmp_path / "half")
    assert stored.keys() == before.keys() == loaded.state_dict().keys()
    for name, tensor in loaded.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, stored[name].float())
        assert stored[name].dtype == (dtype if before[name].ndim >= 2 else torch.float32)
        if before[name].ndim < 2:
            assert torch.equal(tensor, before[name])
    for name in ("state_encoder.conv1.weight", "head.weight", "timestep_embedding"):
        pairs = zip(before[name].flatten().tolist(), loaded.state_dict()[name].flatten().tolist(), strict=True)
        normal = [(entry, rounded) for entry, rounded in pairs if abs(entry) > 2**-14]  # float16 has fewer bits below
        assert len(normal) > 50
        assert [rounded for _, rounded in normal] == [round_by_hand(entry, MANTISSA_BITS[dtype]) for entry, _ in normal]

    loaded.save_pretrained(tmp_path / "again")
    files = [tmp_path / name / "model.safetensors" for name in ("half", "again")]
    assert files[0].read_bytes() == files[1].read_bytes()
    size = sum(tensor.numel() * (2 if tensor.ndim >= 2 else 4) for tensor in before.values())
    assert size < files[0].stat().st_size < size + 5000
    arguments = random_inputs()
    assert torch.allclose(loaded(*arguments).action_logits, model(*arguments).action_logits, atol=0.3)


def test_the_card_says_how_the_weights_are_stored_and_licensed(tmp_path: Path) -> None:
    model = small_model()
    model.weights_dtype = torch.bfloat16
    commands = ["python scripts/evaluate.py half", "python scripts/visualize_attention.py half"]
    model.save_pretrained(tmp_path / "half", model_card_kwargs={"license": "cc-by-4.0", "commands": commands})
    card = ModelCard.load(tmp_path / "half" / "README.md")
    assert card.data.license == "cc-by-4.0"
    count = sum(parameter.numel() for parameter in model.parameters())
    assert f"The network has {count:,} parameters. Its matrices and convolutions are stored in bfloat16" in card.text
    assert "```bash\n{}\n{}\n```".format(*commands) in card.text
    small_model().save_pretrained(tmp_path / "full")
    text = ModelCard.load(tmp_path / "full" / "README.md").text
    assert "float" not in text.partition("## Scores")[0]
    assert "```bash" not in text
    assert text.endswith("## License\n\nNot stated.\n")


def test_statistics_of_the_data_are_stored_exactly(tmp_path: Path) -> None:
    """Buffers are no weights: a rounded boundary between two bytes would give them the same token."""
    config = ModelConfig(2, 1, 2, 16, observation="ram")
    vector_model = DecisionTransformer(config, num_actions=4, max_timestep=9, observation=RAM)
    rng = np.random.default_rng(0)
    vector_model.state_encoder.set_statistics(  # type: ignore[operator]
        rng.uniform(0, 255, 128).astype(np.float32), rng.uniform(1, 90, 128).astype(np.float32)
    )
    for model in (vector_model, small_trajectory_transformer()):
        model.weights_dtype = torch.float16
        path = tmp_path / model.config.method
        model.save_pretrained(path)
        again = load_model(path)
        buffers = dict(model.named_buffers())
        assert len(buffers) >= 2
        assert all(torch.equal(tensor, buffers[name]) for name, tensor in again.named_buffers())
        stored = load_file(path / "model.safetensors")
        assert {stored[name].dtype for name in buffers if name in stored} == {torch.float32}
        assert torch.float16 in {tensor.dtype for tensor in stored.values()}


@pytest.mark.parametrize(("dtype", "value"), [(torch.float16, 65_520.0), (torch.bfloat16, 3.4e38)])
def test_weights_that_half_precision_cannot_hold_are_not_written(
    dtype: torch.dtype, value: float, tmp_path: Path
) -> None:
    model = small_model()
    model.weights_dtype = dtype
    with torch.no_grad():
        model.head.weight[0, 0] = -value
    name = str(dtype).removeprefix("torch.")
    with pytest.raises(
        InputError, match=f"^the weights cannot be written in {name}: 1 of the 80 values of head.weight are NaN or inf"
    ):
        model.save_pretrained(tmp_path / "half")
    assert list(tmp_path.iterdir()) == []
    with torch.no_grad():
        model.head.weight[0, 0] = 65_519.0  # just below the middle between the largest float16 and what comes next
    model.save_pretrained(tmp_path / "half")
    assert DecisionTransformer.from_pretrained(tmp_path / "half").head.weight[0, 0] == (
        65_504 if dtype == torch.float16 else 65_536
    )


@pytest.mark.parametrize("dtype", MANTISSA_BITS)
def test_damaged_half_precision_is_refused(dtype: torch.dtype, tmp_path: Path) -> None:
    model = small_model()
    model.weights_dtype = dtype
    path = tmp_path / "half"
    model.save_pretrained(path)
    file = path / "model.safetensors"
    content, weights = file.read_bytes(), load_file(file)
    for value in (math.nan, math.inf):
        damaged = {name: tensor.clone() for name, tensor in weights.items()}
        damaged["head.weight"][0, 0] = value
        save_file(damaged, file)
        with pytest.raises(InputError, match=r"are not finite: 1 of the 80 values of head.weight are NaN or infinite"):
            DecisionTransformer.from_pretrained(path)
    save_file({**weights, "head.weight": weights["head.weight"][:-1].contiguous()}, file)
    with pytest.raises(InputError, match=r"head.weight has shape \[4, 16\], not \[5, 16\]"):
        DecisionTransformer.from_pretrained(path)
    header_size = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + header_size])
    header["head.weight"]["dtype"] = "F32"  # twice as many bytes as there are
    text = json.dumps(header).encode()
    for other in (struct.pack("<Q", len(text)) + text + content[8 + header_size :], content[:-1], content[:100]):
        file.write_bytes(other)
        with pytest.raises(InputError, match="cannot be read as a safetensors file"):
            DecisionTransformer.from_pretrained(path)


def test_a_scale_that_vanishes_in_single_precision_is_refused(tmp_path: Path) -> None:
    """The network divides by it in float32, whatever the dtype of the file."""
    config = ModelConfig(2, 1, 2, 16, observation="ram")
    DecisionTransformer(config, num_actions=4, max_timestep=9, observation=RAM).save_pretrained(tmp_path / "run")
    file = tmp_path / "run" / "model.safetensors"
    scale = torch.full((128,), 1e-300, dtype=torch.float64)
    save_file({**load_file(file), "state_encoder.scale": scale}, file)
    with pytest.raises(InputError, match="scale holds a number that is not positive"):
        DecisionTransformer.from_pretrained(tmp_path / "run")
