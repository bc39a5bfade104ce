"""Rotary position encoding. The attention it gives is compared with a reference in test_attention.py."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch

from atari_dt.config import ModelConfig
from atari_dt.model.decision_transformer import DecisionTransformer
from atari_dt.model.transformer import rotate, rotation_table
from tests.atari_dt.model.networks import NUM_ACTIONS, SMALL, random_inputs

ROTARY = ModelConfig(**SMALL, position_encoding="rotary", timestep_encoding="none")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_rotations_depend_on_the_distance_alone_anywhere_in_an_episode(dtype: torch.dtype) -> None:
    """The products of rotated queries and keys stay the same when all positions grow by the tokens of an episode."""
    query, key = torch.randn(2, 6, 3, 16, dtype=dtype)
    products = []
    for first in (0, 81_000):
        table = rotation_table(first + torch.arange(6), 16, dtype)
        rotated_query, rotated_key = rotate(query, table), rotate(key, table)
        assert rotated_query.dtype == dtype
        assert table.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        products.append(torch.einsum("qhd,khd->hqk", rotated_query.double(), rotated_key.double()))
    tolerance = {torch.float32: 1e-5, torch.float64: 1e-9, torch.bfloat16: 0.2}[dtype]
    assert torch.allclose(products[0], products[1], rtol=0, atol=tolerance)
    plain = torch.einsum("qhd,khd->hqk", query.double(), key.double())
    assert torch.allclose(products[1].diagonal(0, 1, 2), plain.diagonal(0, 1, 2), rtol=0, atol=tolerance)
    assert (products[1] - plain).abs().amax() > 0.3


def test_checkpoint_of_a_rotary_model_has_no_embeddings_of_positions_and_timesteps(tmp_path: Path) -> None:
    model = DecisionTransformer(ROTARY, NUM_ACTIONS, max_timestep=50).eval()
    embeddings = {name for name in model.state_dict() if "embedding" in name}
    assert embeddings == {"action_embedding.weight", "return_embedding.weight", "return_embedding.bias"}
    model.save_pretrained(tmp_path / "checkpoint")
    loaded = DecisionTransformer.from_pretrained(tmp_path / "checkpoint")
    assert loaded.config == ROTARY
    arguments = random_inputs()
    assert torch.equal(loaded(*arguments).action_logits, model(*arguments).action_logits)


def test_real_and_complex_rotations_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled code and GPUs rotate with real numbers, eager code on a CPU with complex numbers."""
    x, table = torch.randn(2, 6, 3, 16, requires_grad=True), rotation_table(torch.arange(6), 16, torch.float32)
    results = []
    for is_compiling in (False, True):
        monkeypatch.setattr(torch.compiler, "is_compiling", partial(bool, is_compiling))
        y = rotate(x, table)
        results.append((y, *torch.autograd.grad((y * torch.arange(16)).sum(), x)))
    for complex_result, real_result in zip(*results, strict=True):
        assert torch.allclose(complex_result, real_result, rtol=0, atol=1e-5)
