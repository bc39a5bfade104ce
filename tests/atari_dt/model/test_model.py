from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from atari_dt.config import Conditioning, ModelConfig, TimestepEncoding
from atari_dt.model.decision_transformer import DecisionTransformer
from atari_dt.model.pretrained import latest_checkpoint
from atari_dt.model.state_encoder import StateEncoder
from atari_dt.model.transformer import CausalSelfAttention, Dropout
from replay_data import InputError
from tests.conftest import DATA

K, ACTIONS = 4, 5
SMALL = {"context_length": K, "num_layers": 2, "num_heads": 2, "embed_dim": 16}


def small_model(conditioning: str = "return") -> DecisionTransformer:
    model = DecisionTransformer(ModelConfig(**SMALL, conditioning=conditioning), ACTIONS, max_timestep=50)  # type: ignore[arg-type]
    for parameter in model.parameters():  # embeddings start at zero, which would hide mistakes
        nn.init.normal_(parameter, std=0.1)
    return model.eval()


def inputs(batch: int = 2, steps: int = K) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    states = torch.randint(0, 256, (batch, steps, 4, 84, 84), dtype=torch.uint8)
    return (
        states,
        torch.randint(0, ACTIONS, (batch, steps)),
        torch.rand(batch, steps) * 10,
        torch.arange(steps).repeat(batch, 1) + 7,
    )


def original_model() -> tuple[DecisionTransformer, dict[str, np.ndarray]]:
    """The original network (kzl/decision-transformer), and what it computed itself."""
    model = DecisionTransformer.from_original_checkpoint(DATA / "original_model" / "dt_small.pth")
    return model, dict(np.load(DATA / "original_model" / "dt_small_io.npz"))


def test_loss_and_logits_are_those_of_the_original_network() -> None:
    model, record = original_model()
    states = torch.from_numpy(record["frames"])
    actions = torch.from_numpy(record["actions"])
    returns = torch.from_numpy(record["returns_to_go"])
    timesteps = torch.from_numpy(record["window_start_timestep"])[:, None].repeat(1, 10)
    with torch.inference_mode():
        output = model(states, actions, returns, timesteps, targets=actions)
        acting = model(states[:, :4], actions[:, :3], returns[:, :4], timesteps[:, :4])
        first = model(states[:, :1], actions[:, :0], returns[:, :1], timesteps[:, :1])
    assert np.abs(output.action_logits.numpy() - record["logits"]).max() < 1e-5
    assert output.loss.item() == pytest.approx(float(record["loss"]), abs=1e-5)
    assert np.abs(acting.action_logits.numpy() - record["acting_logits"]).max() < 1e-5
    assert np.abs(first.action_logits.numpy() - record["first_step_logits"]).max() < 1e-5


def test_the_originals_two_kinds_of_model_are_read_as_what_they_are(tmp_path: Path) -> None:
    """Its behavior cloning has the parameters of the return embedding too, and never reads them."""
    path = DATA / "original_model" / "dt_small.pth"
    naive = DecisionTransformer.from_original_checkpoint(path, conditioning="none")
    states, actions, returns, timesteps = inputs()
    args = states, actions.clamp(max=3), returns, timesteps
    assert torch.equal(naive(*args).action_logits, naive(args[0], args[1], None, args[3]).action_logits)
    parallel = {f"module.{name}": tensor for name, tensor in torch.load(path, weights_only=True).items()}
    torch.save(parallel, tmp_path / "parallel.pth")
    model = DecisionTransformer.from_original_checkpoint(tmp_path / "parallel.pth")
    assert torch.equal(model(*args).action_logits, original_model()[0](*args).action_logits)
    assert (model.config.context_length, model.num_actions, model.max_timestep) == (10, 4, 500)


def test_files_that_are_no_original_checkpoint_are_refused(tmp_path: Path) -> None:
    path, read = tmp_path / "model.pth", DecisionTransformer.from_original_checkpoint
    with pytest.raises(InputError, match="no checkpoint at"):
        read(path)
    original = DATA / "original_model" / "dt_small.pth"
    theirs = torch.load(original, weights_only=True)
    with pytest.raises(InputError, match=r"embed_dim \(32\) must be a multiple of num_heads \(5\)"):
        read(original, num_heads=5)
    for spoiled in (
        {name: tensor for name, tensor in theirs.items() if name != "ln_f.bias"},
        {**theirs, "pos_emb": theirs["pos_emb"][:, :-1]},
        [1, 2, 3],
        Path("a class that weights_only refuses"),
    ):
        torch.save(spoiled, path)
        with pytest.raises(InputError, match="is damaged or holds no state dict of the original network"):
            read(path)
    torch.save({**theirs, "head.weight": theirs["head.weight"][:3]}, path)
    with pytest.raises(InputError, match=r"the shapes in .*model\.pth do not match"):
        read(path)
    for content in (original.read_bytes()[:5000], b"", b"PK text"):
        path.write_bytes(content)
        with pytest.raises(InputError, match="is damaged or holds no state dict"):
            read(path)


@pytest.mark.parametrize("conditioning", ["return", "none"])
def test_timesteps_are_embedded_as_the_config_says(conditioning: Conditioning) -> None:
    """Per step: a later timestep changes its own step's logits and those after; else only the first one counts."""
    states, actions, returns, timesteps = inputs()
    later = timesteps.clone()
    later[:, 2] += 1
    for encoding in get_args(TimestepEncoding):
        config = ModelConfig(**SMALL, conditioning=conditioning, timestep_encoding=encoding)
        model = DecisionTransformer(config, ACTIONS, max_timestep=50).eval()
        nn.init.normal_(model.timestep_embedding, std=0.1)
        before, after = (model(states, actions, returns, times).action_logits for times in (timesteps, later))
        assert torch.equal(before[:, :2], after[:, :2])
        assert torch.equal(before, after) == (encoding == "window_start")
        assert torch.equal(before[:, 2], after[:, 2]) == (encoding == "window_start")
        same = model(states, actions, returns, timesteps[:, :1].expand(-1, K)).action_logits
        assert torch.equal(same, before) == (encoding == "window_start")
        acting = model(states, actions[:, :-1], returns, timesteps).action_logits
        assert torch.allclose(acting, before, atol=1e-6)


@pytest.mark.parametrize("conditioning", ["return", "none"])
@pytest.mark.parametrize("step", range(K))
def test_a_later_token_never_changes_an_earlier_logit(conditioning: str, step: int) -> None:
    model = small_model(conditioning)
    states, actions, returns, timesteps = inputs()
    before = model(states, actions, returns, timesteps).action_logits
    changed = [states.clone(), actions.clone(), returns.clone()]
    changed[0][:, step] = 255 - changed[0][:, step]
    changed[2][:, step] += 5
    after = model(*changed, timesteps).action_logits
    assert torch.equal(before[:, :step], after[:, :step])
    assert not torch.allclose(before[:, step], after[:, step], atol=1e-4)

    changed[1][:, step] = (changed[1][:, step] + 1) % ACTIONS
    acted = model(*changed, timesteps).action_logits
    assert torch.equal(after[:, : step + 1], acted[:, : step + 1])  # an action is not seen where it is predicted
    if step + 1 < K:
        assert not torch.equal(after[:, step + 1], acted[:, step + 1])


def test_behavior_cloning_does_not_see_returns() -> None:
    model = small_model("none")
    states, actions, returns, timesteps = inputs()
    assert torch.equal(
        model(states, actions, returns, timesteps).action_logits, model(states, actions, None, timesteps).action_logits
    )
    with pytest.raises(ValueError, match="needs returns_to_go"):
        small_model()(states, actions, None, timesteps)


@pytest.mark.parametrize("conditioning", ["return", "none"])
def test_the_last_action_may_be_missing(conditioning: str) -> None:
    model = small_model(conditioning)
    states, actions, returns, timesteps = inputs()
    whole = model(states, actions, returns, timesteps).action_logits
    acting = model(states, actions[:, :-1], returns, timesteps).action_logits
    assert torch.allclose(whole, acting, atol=1e-6)


def test_padding_on_the_right_changes_neither_logits_nor_loss() -> None:
    model = small_model()
    states, actions, returns, timesteps = inputs()
    short = model(states[:, :2], actions[:, :2], returns[:, :2], timesteps[:, :2], targets=actions[:, :2])
    mask = torch.tensor([[True, True, False, False]]).repeat(2, 1)
    padded = model(states, actions, returns, timesteps, mask, targets=actions)
    assert torch.allclose(short.action_logits, padded.action_logits[:, :2], atol=1e-6)
    assert padded.loss.item() == pytest.approx(short.loss.item(), abs=1e-6)
    log_probabilities = short.action_logits.log_softmax(-1).gather(-1, actions[:, :2, None])
    assert short.loss.item() == pytest.approx(-log_probabilities.mean().item(), abs=1e-6)


def test_attention_is_returned_on_request_and_changes_nothing() -> None:
    model = small_model()
    args = inputs()
    plain = model(*args)
    output = model(*args, output_attentions=True, output_hidden_states=True)
    assert plain.attentions is plain.hidden_states is None
    assert torch.allclose(plain.action_logits, output.action_logits, atol=1e-6)
    assert [tuple(a.shape) for a in output.attentions] == [(2, 2, 3 * K, 3 * K)] * 2
    assert [tuple(h.shape) for h in output.hidden_states] == [(2, 3 * K, 16)] * 3
    for attention in output.attentions:
        assert torch.allclose(attention.sum(-1), torch.ones(2, 2, 3 * K))
        assert (attention.triu(1) == 0).all()


def test_attention_is_that_of_pytorch() -> None:
    """The fused kernel, which runs on a GPU, gives what the explicit formula gives, which runs on a CPU."""
    attention = CausalSelfAttention(16, num_heads=2, dropout=0.0)
    x = torch.randn(2, 3 * K, 16)
    query, key, value = attention.qkv(x).view(2, 3 * K, 3, 2, 8).permute(2, 0, 3, 1, 4)
    y = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
    expected = attention.projection(y.transpose(1, 2).reshape(2, 3 * K, 16))
    assert torch.allclose(attention(x)[0], expected, atol=1e-6)


@pytest.mark.parametrize("p", [0.1, 0.5])
@pytest.mark.parametrize("shape", [(1000, 1000), (333, 3, 7)])  # the latter's size is no multiple of 4
def test_dropout_drops_and_scales(p: float, shape: tuple[int, ...]) -> None:
    x = torch.full(shape, 3.0, requires_grad=True)
    dropout = Dropout(p)
    y = dropout(x)
    y.sum().backward()
    assert x.grad is not None
    assert set(y.unique().tolist()) == {0.0, y.max().item()}
    assert y.max().item() == pytest.approx(3 / (1 - p), rel=1e-4)
    assert torch.allclose(x.grad, y / 3)
    deviation = (p * (1 - p) / y.numel()) ** 0.5
    assert (y == 0).float().mean().item() == pytest.approx(p, abs=5 * deviation)
    dropped = (y == 0).flatten()
    if y.numel() == 1_000_000:  # neighbours are independent: elements 1, 2, 3 and 4 places apart share no random bits
        for distance in (1, 2, 3, 4):
            both = (dropped[distance:] & dropped[:-distance]).float().mean().item()
            assert both == pytest.approx(p * p, abs=5e-3 * p)
    assert not torch.equal(dropout(x), y)
    assert dropout.eval()(x) is x


def test_bfloat16_is_close_to_float32() -> None:
    model, record = original_model()
    states, actions = torch.from_numpy(record["frames"]), torch.from_numpy(record["actions"])
    arguments = states, actions, torch.from_numpy(record["returns_to_go"]), torch.zeros(2, 10, dtype=torch.int64)
    with torch.inference_mode():
        exact = model(*arguments, targets=actions)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = model(*arguments, targets=actions)
    assert rounded.action_logits.dtype == torch.float32
    assert (rounded.action_logits - exact.action_logits).abs().max() < 0.02
    assert rounded.loss.item() == pytest.approx(exact.loss.item(), abs=0.01)


def test_timesteps_past_the_last_embedding_share_it() -> None:
    model = small_model()
    states, actions, returns, _ = inputs()
    late = [torch.full((2, K), step) for step in (50, 51, 20_000)]
    logits = [model(states, actions, returns, timesteps).action_logits for timesteps in late]
    assert torch.equal(logits[0], logits[1])
    assert torch.equal(logits[0], logits[2])


def test_the_encoder_is_the_plain_stack_of_convolutions() -> None:
    encoder = StateEncoder(16)
    plain = nn.Sequential(
        encoder.conv1, nn.ReLU(), encoder.conv2, nn.ReLU(), encoder.conv3, nn.ReLU(), nn.Flatten(), encoder.linear
    )
    states = torch.randint(0, 256, (3, 4, 84, 84), dtype=torch.uint8)
    assert torch.allclose(encoder(states), plain(states / 255).tanh(), atol=1e-6)


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_states_that_share_frames_are_encoded_like_copies(steps: int) -> None:
    encoder = StateEncoder(16)
    frames = torch.randint(0, 256, (2, steps + 3, 84, 84), dtype=torch.uint8)
    view = frames.unfold(1, 4, 1).permute(0, 1, 4, 2, 3)
    copies = torch.stack([frames[:, t : t + 4] for t in range(steps)], dim=1)
    assert torch.equal(view, copies)
    assert torch.allclose(encoder(view), encoder(copies), atol=1e-6)
    assert torch.allclose(encoder(view[1:]), encoder(copies[1:]), atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"context_length": 0}, "context_length must be at least 1, not 0"),
        ({"num_layers": 0}, "num_layers must be at least 1"),
        ({"embed_dim": 100}, "multiple of num_heads"),
        ({"dropout": 1.0}, "dropout"),
        ({"conditioning": "reward"}, "conditioning"),
        ({"timestep_encoding": "rotary"}, "timestep_encoding"),
    ],
)
def test_impossible_configs_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ModelConfig(**changes)  # type: ignore[arg-type]


def test_a_checkpoint_gives_the_same_model(tmp_path: Path) -> None:
    model = small_model()
    model.save_pretrained(tmp_path / "checkpoint")
    again = DecisionTransformer.from_pretrained(tmp_path / "checkpoint")
    args = inputs()
    assert again.config == model.config
    assert torch.equal(model(*args).action_logits, again(*args).action_logits)
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint"]


def test_the_newest_whole_checkpoint_is_found(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no run with a checkpoint"):
        latest_checkpoint(tmp_path)
    for update in (9, 100, 20):
        small_model().save_pretrained(tmp_path / "checkpoints" / f"update-{update:08d}")
    (tmp_path / "checkpoints" / "update-00000500").mkdir()
    newest = tmp_path / "checkpoints" / "update-00000100"
    assert latest_checkpoint(tmp_path) == newest
    assert latest_checkpoint(newest) == newest


def test_damaged_and_foreign_checkpoints_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    with pytest.raises(InputError, match="not a checkpoint"):
        DecisionTransformer.from_pretrained(path)
    small_model().save_pretrained(path)
    config, weights = path / "config.json", path / "model.safetensors"
    content, tensors = config.read_text(), weights.read_bytes()

    config.write_text(content.replace('"format_version": 2', '"format_version": 3'))
    with pytest.raises(InputError, match="checkpoint format 3"):
        DecisionTransformer.from_pretrained(path)
    config.write_text(content.replace('"embed_dim": 16', '"embed_dim": 32'))
    with pytest.raises(InputError, match="damaged or from another project"):
        DecisionTransformer.from_pretrained(path)
    config.write_text(content[:-20])
    with pytest.raises(InputError, match="damaged or from another project"):
        DecisionTransformer.from_pretrained(path)
    config.write_text(content)
    weights.write_bytes(tensors[:-1])
    with pytest.raises(InputError, match="damaged or from another project"):
        DecisionTransformer.from_pretrained(path)
