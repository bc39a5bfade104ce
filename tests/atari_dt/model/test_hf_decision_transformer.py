"""Hugging Face's Decision Transformer: transformers called directly, and checkpoints that both projects load."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from atari_dt.method_config import HFDecisionTransformerConfig
from atari_dt.methods import load_model
from atari_dt.model.hf_decision_transformer import HFDecisionTransformer, align_left, pad_left
from replay_data import InputError
from tests.atari_dt.hf_models import SMALL, call_plain, load_plain, random_context, small_hf_model

K = SMALL.context_length

LENGTHS = [5, 1, 3, 4]


@pytest.fixture
def model() -> HFDecisionTransformer:
    return small_hf_model()


@pytest.fixture
def checkpoint(model: HFDecisionTransformer, tmp_path: Path) -> Path:
    model.save_pretrained(tmp_path / "saved", repo_id="somebody/breakout")
    return tmp_path / "saved"


def make_batch() -> tuple[list[tuple[Tensor, Tensor, Tensor, Tensor]], list[Tensor], Tensor]:
    """Return contexts, the batch of them, whose padding is noise, and its mask."""
    contexts = [random_context(length, seed) for seed, length in enumerate(LENGTHS)]
    noise = random_context(K, 99)
    batch = [
        torch.stack([torch.cat([values, padding[len(values) :]]) for values in column])
        for column, padding in zip(zip(*contexts, strict=True), noise, strict=True)
    ]
    return contexts, batch, torch.arange(K) < torch.tensor(LENGTHS)[:, None]


@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
def test_padding_moves_to_the_left_and_back(shape: tuple[int, ...]) -> None:
    values = torch.randn(len(LENGTHS), K, *shape)
    lengths = torch.tensor(LENGTHS)
    expected = torch.full_like(values, -7)
    for row, length in enumerate(LENGTHS):
        for step in range(length):
            expected[row, K - length + step] = values[row, step]
    padded = pad_left(values, lengths, -7)
    assert torch.equal(padded, expected)
    for row, length in enumerate(LENGTHS):
        assert torch.equal(align_left(padded, lengths)[row, :length], values[row, :length])


def test_logits_loss_and_attention_are_those_of_transformers(model: HFDecisionTransformer, checkpoint: Path) -> None:
    plain, info = load_plain(checkpoint)
    assert not any(info[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    contexts, batch, mask = make_batch()
    with torch.inference_mode():
        output = model(*batch, mask, targets=batch[1])
        traced = model(*batch, mask, output_attentions=True, output_hidden_states=True)
        expected = [
            call_plain(plain, K, states.numpy(), *(values.tolist() for values in others)).action_preds[0]
            for states, *others in contexts
        ]
        plain.set_attn_implementation("eager")
        eager = [
            call_plain(
                plain,
                K,
                states.numpy(),
                *(values.tolist() for values in others),
                output_attentions=True,
                output_hidden_states=True,
            )
            for states, *others in contexts
        ]
    losses = []
    for row, (length, (_, actions, *_)) in enumerate(zip(LENGTHS, contexts, strict=True)):
        assert torch.allclose(output.action_logits[row, :length], expected[row][-length:], atol=1e-5)
        losses.append(F.cross_entropy(expected[row][-length:], actions, reduction="none"))
        tokens = 3 * length
        for layer in range(SMALL.num_layers):
            ours, theirs = traced.attentions[layer][row], eager[row].attentions[layer][0]
            assert torch.allclose(ours[:, :tokens, :tokens], theirs[:, -tokens:, -tokens:], atol=1e-6)
            assert torch.equal(ours[:, :tokens, tokens:], torch.zeros_like(ours[:, :tokens, tokens:]))
            hidden = traced.hidden_states[layer][row, :tokens]
            assert torch.allclose(hidden, eager[row].hidden_states[layer][0, -tokens:], atol=1e-5)
    assert torch.allclose(output.loss, torch.cat(losses).mean(), atol=1e-6)
    config: Any = model.transformer.config
    assert config._attn_implementation == "sdpa"


def test_the_newest_action_does_not_matter_before_it_is_chosen(model: HFDecisionTransformer) -> None:
    inputs: list[dict[str, Tensor]] = []
    model.transformer.register_forward_pre_hook(lambda _, __, kwargs: inputs.append(kwargs), with_kwargs=True)
    _, (states, actions, returns_to_go, timesteps), mask = make_batch()
    others = returns_to_go, timesteps, mask
    with torch.inference_mode():
        whole = model(states, actions, *others).action_logits
        unchosen = model(states, actions[:, :-1], *others).action_logits
        assert [each["actions"][:, -1].sum().item() for each in inputs] == [len(LENGTHS), 0]
        steps = torch.tensor(LENGTHS) - 1
        selected = model.predict(model.encode_states(states), actions, *others, selected_steps=steps)
    for row, length in enumerate(LENGTHS):
        assert torch.allclose(whole[row, :length], unchosen[row, :length], atol=1e-5)
    assert torch.equal(selected.action_logits[:, 0], whole[torch.arange(len(LENGTHS)), steps])


def test_a_checkpoint_survives_a_round_trip_through_transformers(
    model: HFDecisionTransformer, checkpoint: Path, tmp_path: Path
) -> None:
    plain, _ = load_plain(checkpoint)
    plain.save_pretrained(tmp_path / "theirs")
    for path in (checkpoint, tmp_path / "theirs"):
        again = load_model(path)
        assert isinstance(again, HFDecisionTransformer)
        assert again.checkpoint_config == model.checkpoint_config
        assert not again.training
        weights = model.state_dict()
        assert all(torch.equal(tensor, weights[name]) for name, tensor in again.state_dict().items())
        assert torch.equal(again.mean, model.mean)
        assert torch.equal(again.scale, model.scale)


def test_transformers_loads_half_precision_as_the_card_says(model: HFDecisionTransformer, tmp_path: Path) -> None:
    model.weights_dtype = torch.bfloat16
    model.save_pretrained(tmp_path / "half", repo_id="somebody/breakout")
    again = load_model(tmp_path / "half").state_dict()
    text = ModelCard.load(tmp_path / "half" / "README.md").text
    assert 'DecisionTransformerModel.from_pretrained("somebody/breakout", dtype="float32")' in text
    plain, info = load_plain(tmp_path / "half", dtype="float32")
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    for name, tensor in plain.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, again[f"transformer.{name}"])


def test_the_card_says_how_transformers_loads_the_model(
    model: HFDecisionTransformer, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = ModelCard.load(checkpoint / "README.md")
    assert "Hugging Face Decision Transformer for Breakout" in card.text
    assert "contexts have 5 steps" in card.text
    _, code = re.findall(r"```python\n(.*?)```", card.text, re.DOTALL)
    monkeypatch.chdir(checkpoint.parent)
    names: dict[str, Any] = {}
    exec(code.replace("somebody/breakout", checkpoint.name), names)
    assert names["scaling"]["returns"] == model.scaling.returns
    assert names["scaling"]["mean"] == pytest.approx(model.mean.tolist())


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, checkpoint: Path) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(InputError, match=r'needs the package transformers; install it with pip install "atari-dt\[tra'):
        load_model(checkpoint)


def change(*path: str, to: Any) -> Callable[[Any], None]:
    """Return a function that sets a value of ``config.json``, or deletes it."""

    def apply(content: Any) -> None:
        *parents, name = path
        for parent in parents:
            content = content[parent]
        if to is None:
            del content[name]
        else:
            content[name] = to

    return apply


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (change("atari_dt", to=None), "is a checkpoint of transformers.DecisionTransformerModel whose config.json has"),
        (change("n_head", to=4), "its n_head is 4, but its part atari_dt says 2"),
        (change("atari_dt", to=7), "damaged or from another project"),
        (change("atari_dt", "scaling", to=None), "damaged or from another project .*scaling"),
        (change("atari_dt", "scaling", "mean", to=[0.0] * 128 + [1.0]), "129 means and 128 scales"),
        (change("atari_dt", "scaling", to={"mean": [0.0], "scale": [1.0], "returns": 1.0}), "1 means, but a state has"),
        (change("atari_dt", "scaling", "scale", to=[0.0] * 128), "a divisor of its scaling is not a positive number"),
        (
            change("atari_dt", "scaling", "scale", to=[1e-300] * 128),
            "a divisor of its scaling is not a positive number",
        ),
        (change("atari_dt", "scaling", "mean", to=[1e300] * 128), "a mean of its scaling is not finite"),
        (change("atari_dt", "scaling", "returns", to=-1.0), "a divisor of its scaling is not a positive number"),
        (change("atari_dt", "model", "observation", to="frames"), "`observation` must be ram or variables"),
        (change("atari_dt", "format_version", to=3), "has checkpoint format 3"),
    ],
)
def test_wrong_configs_are_refused(checkpoint: Path, damage: Callable[[Any], None], message: str) -> None:
    content = json.loads((checkpoint / "config.json").read_text())
    damage(content)
    (checkpoint / "config.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=message):
        load_model(checkpoint)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"num_layers": 10**12}, "the network has 1,000,000,000,000 layers, but there are only"),
        ({"embed_dim": 2**40}, "damaged or from another project"),
        ({"embed_dim": 2**20}, "has shape"),
        ({"max_timestep": 10**12}, r"embed_timestep.weight has shape \[9, 16\], not \[1000000000001, 16\]"),
    ],
    ids=["layers", "impossible", "wide", "timesteps"],
)
def test_absurd_sizes_are_refused_before_they_are_allocated(
    checkpoint: Path, sizes: dict[str, int], message: str
) -> None:
    content = json.loads((checkpoint / "config.json").read_text())
    own = content["atari_dt"]
    own["model"] |= {name: value for name, value in sizes.items() if name != "max_timestep"}
    own["max_timestep"] = sizes.get("max_timestep", own["max_timestep"])
    content |= {"n_layer": own["model"]["num_layers"], "hidden_size": own["model"]["embed_dim"]}
    content["max_ep_len"] = own["max_timestep"] + 1
    (checkpoint / "config.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=message):
        load_model(checkpoint)


def test_wrong_weights_are_refused(checkpoint: Path) -> None:
    weights = load_file(checkpoint / "model.safetensors")
    save_file({**weights, "encoder.h.0.attn.bias": torch.zeros(1)}, checkpoint / "model.safetensors")
    with pytest.raises(InputError, match=r"also has encoder\.h\.0\.attn\.bias"):
        load_model(checkpoint)
    save_file({**weights, "embed_ln.bias": torch.full((16,), np.nan)}, checkpoint / "model.safetensors")
    with pytest.raises(InputError, match=r"not finite: 16 of the 16 values of embed_ln\.bias"):
        load_model(checkpoint)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"observation": "frames"}, "`observation` must be ram or variables"),
        ({"num_heads": 3}, r"`embed_dim` \(128\) must be a multiple of `num_heads` \(3\)"),
        ({"context_length": 0}, "`context_length` must be at least 1, not 0"),
        ({"dropout": 1.0}, "`dropout` must be at least 0 and less than 1"),
        ({"activation": "tanh"}, "`activation` must be"),
        ({"variables": ("ball_x",)}, "`variables` has no effect"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        HFDecisionTransformerConfig(**settings)
