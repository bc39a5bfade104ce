"""Checkpoints of the original code (kzl/decision-transformer)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from atari_dt.model.decision_transformer import DecisionTransformer
from replay_data import InputError
from tests.atari_dt.model.networks import ORIGINAL_CHECKPOINT, random_inputs
from tests.conftest import DATA


@pytest.fixture(scope="module")
def model() -> DecisionTransformer:
    return DecisionTransformer.from_original_checkpoint(ORIGINAL_CHECKPOINT)


@pytest.fixture(scope="module")
def expected() -> dict[str, np.ndarray]:
    """Inputs, and the outputs that the original network computed for them."""
    return dict(np.load(DATA / "original_model" / "dt_small_io.npz"))


def test_loss_and_logits_equal_those_of_the_original_network(
    model: DecisionTransformer, expected: dict[str, np.ndarray]
) -> None:
    states = torch.from_numpy(expected["frames"])
    actions = torch.from_numpy(expected["actions"])
    returns = torch.from_numpy(expected["returns_to_go"])
    timesteps = torch.from_numpy(expected["window_start_timestep"])[:, None].repeat(1, 10)
    with torch.inference_mode():
        output = model(states, actions, returns, timesteps, targets=actions)
        acting = model(states[:, :4], actions[:, :3], returns[:, :4], timesteps[:, :4])
        first_step = model(states[:, :1], actions[:, :0], returns[:, :1], timesteps[:, :1])
    assert np.abs(output.action_logits.numpy() - expected["logits"]).max() < 1e-5
    assert output.loss.item() == pytest.approx(float(expected["loss"]), abs=1e-5)
    assert np.abs(acting.action_logits.numpy() - expected["acting_logits"]).max() < 1e-5
    assert np.abs(first_step.action_logits.numpy() - expected["first_step_logits"]).max() < 1e-5


def test_bfloat16_is_close_to_float32(model: DecisionTransformer, expected: dict[str, np.ndarray]) -> None:
    states, actions = torch.from_numpy(expected["frames"]), torch.from_numpy(expected["actions"])
    arguments = states, actions, torch.from_numpy(expected["returns_to_go"]), torch.zeros(2, 10, dtype=torch.int64)
    with torch.inference_mode():
        float32 = model(*arguments, targets=actions)
        with torch.autocast("cpu", torch.bfloat16):
            bfloat16 = model(*arguments, targets=actions)
    assert bfloat16.action_logits.dtype == torch.float32
    assert (bfloat16.action_logits - float32.action_logits).abs().max() < 0.02
    assert bfloat16.loss.item() == pytest.approx(float32.loss.item(), abs=0.01)


def test_behavior_cloning_checkpoint_ignores_returns() -> None:
    """The original's behavior-cloning checkpoint contains a return embedding, which its network never uses."""
    model = DecisionTransformer.from_original_checkpoint(ORIGINAL_CHECKPOINT, conditioning="none")
    states, actions, returns, timesteps = random_inputs()
    actions = actions.clamp(max=3)
    logits = model(states, actions, returns, timesteps).action_logits
    assert torch.equal(logits, model(states, actions, None, timesteps).action_logits)


def test_checkpoint_of_a_data_parallel_model_is_read(model: DecisionTransformer, tmp_path: Path) -> None:
    weights = torch.load(ORIGINAL_CHECKPOINT, weights_only=True)
    torch.save({f"module.{name}": tensor for name, tensor in weights.items()}, tmp_path / "parallel.pth")
    parallel = DecisionTransformer.from_original_checkpoint(tmp_path / "parallel.pth")
    states, actions, returns, timesteps = random_inputs()
    arguments = states, actions.clamp(max=3), returns, timesteps
    assert torch.equal(parallel(*arguments).action_logits, model(*arguments).action_logits)
    assert (parallel.config.context_length, parallel.num_actions, parallel.max_timestep) == (10, 4, 500)


def test_files_without_an_original_network_are_refused(tmp_path: Path) -> None:
    path, read = tmp_path / "model.pth", DecisionTransformer.from_original_checkpoint
    with pytest.raises(InputError, match="no checkpoint at"):
        read(path)
    weights = torch.load(ORIGINAL_CHECKPOINT, weights_only=True)
    with pytest.raises(InputError, match=r"`embed_dim` \(32\) must be a multiple of `num_heads` \(5\)"):
        read(ORIGINAL_CHECKPOINT, num_heads=5)
    for content in (
        {name: tensor for name, tensor in weights.items() if name != "ln_f.bias"},
        {**weights, "pos_emb": weights["pos_emb"][:, :-1]},
        [1, 2, 3],
    ):
        torch.save(content, path)
        with pytest.raises(InputError, match="is damaged or holds no state dict of the original network"):
            read(path)
    torch.save({**weights, "head.weight": weights["head.weight"][:3]}, path)
    with pytest.raises(InputError, match=r"action_embeddings\.0\.weight has shape \[4, 32\], not \[3, 32\]"):
        read(path)
    for data in (ORIGINAL_CHECKPOINT.read_bytes()[:5000], b"", b"PK text"):
        path.write_bytes(data)
        with pytest.raises(InputError, match="is damaged or holds no state dict"):
            read(path)
