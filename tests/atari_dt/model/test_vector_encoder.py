"""Models of vectors: the encoder against NumPy, checkpoints, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from atari_dt.config import ModelConfig
from atari_dt.games.presets import describe_deviations
from atari_dt.games.ram_variables import find_observation
from atari_dt.methods import METHODS
from atari_dt.model import DatasetInfo, DecisionTransformer
from atari_dt.model.vector_encoder import VectorEncoder
from replay_data import InputError
from replay_data.observation import FRAMES, RAM, ObservationSpec
from replay_data.testing import write_random_store
from tests.atari_dt.model.networks import SMALL

BALL = find_observation("variables", ("ball_x", "ball_y", "player_x"), "Breakout")


def make_model(observation: ObservationSpec, **settings: Any) -> DecisionTransformer:
    """Return a small model with random weights, in evaluation mode."""
    config = ModelConfig(**SMALL, observation=observation.kind, variables=observation.names, **settings)
    model = DecisionTransformer(config, 4, 50, observation)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    encoder = model.state_encoder
    if isinstance(encoder, VectorEncoder):
        rng = np.random.default_rng(0)
        sizes = observation.state_shape
        encoder.set_statistics(rng.uniform(0, 255, sizes).astype("float32"), rng.uniform(1, 9, sizes).astype("float32"))
    return model.eval()


@given(st.integers(0, 2**31), st.booleans(), st.sets(st.integers(0, 127), max_size=20))
@settings(max_examples=15, deadline=None)
def test_states_are_normalized_and_embedded_as_numpy_does_it(seed: int, norm: bool, constant: set[int]) -> None:
    rng = np.random.default_rng(seed)
    states = rng.integers(0, 256, (50, 128), dtype=np.uint8)
    states[:, list(constant)] = 200
    mean, std = states.mean(0), states.std(0)
    encoder = VectorEncoder(ModelConfig(**SMALL, observation="ram", encoder_norm=norm), RAM)
    encoder.set_statistics(mean.astype("float32"), np.where(std > 0, std, 1).astype("float32"))
    normalized = encoder.normalize(torch.from_numpy(states)).numpy()
    varying = std > 0
    np.testing.assert_allclose(normalized[:, varying], (states - mean)[:, varying] / std[varying], atol=1e-4)
    assert (normalized[:, ~varying] == 0).all()
    weight, bias = (each.detach().numpy().astype(np.float64) for each in encoder.linear.parameters())
    embedded = normalized @ weight.T + bias
    expected = np.tanh(embedded)
    if norm:
        centered = embedded - embedded.mean(1, keepdims=True)
        expected = centered / np.sqrt(embedded.var(1, keepdims=True) + 1e-5)
    with torch.no_grad():
        tokens = encoder(torch.from_numpy(states).view(5, 10, 128))
        assert torch.equal(tokens, encoder(torch.from_numpy(states).float().view(5, 10, 128)))
    np.testing.assert_allclose(tokens.flatten(0, 1).numpy(), expected, atol=1e-4)


@pytest.mark.parametrize("observation", [RAM, BALL], ids=lambda each: each.kind)
def test_a_network_is_normalized_with_the_statistics_of_its_store(tmp_path: Path, observation: ObservationSpec) -> None:
    """Byte 0 is constant in this store."""
    store = write_random_store(tmp_path / "store", [9, 4, 20], ram=True)
    config = ModelConfig(**SMALL, observation=observation.kind, variables=observation.names)
    model: Any = METHODS["dt"].make_network(config, store)
    assert model.observation == observation
    ram = store.require_ram().astype(np.float64)[:, list(observation.addresses or range(128))]
    normalized = model.state_encoder.normalize(torch.tensor(observation.select(store.require_ram())))
    scale = np.where(ram.std(0) > 0, ram.std(0), 1)
    np.testing.assert_allclose(normalized.numpy(), (ram - ram.mean(0)) / scale, atol=1e-5)
    if observation == RAM:
        assert (normalized[:, 0] == 0).all()


@pytest.mark.parametrize(
    ("observation", "settings"),
    [(RAM, {}), (BALL, {"predict": ("state", "return")}), (FRAMES, {"predict": ("return",)})],
    ids=["ram", "variables", "frames"],
)
def test_a_checkpoint_keeps_observation_statistics_and_heads(
    tmp_path: Path, observation: ObservationSpec, settings: Any
) -> None:
    model = make_model(observation, **settings)
    model.save_pretrained(tmp_path / "saved")
    loaded = DecisionTransformer.from_pretrained(tmp_path / "saved")
    assert (loaded.observation, loaded.config) == (observation, model.config)
    states = torch.randint(0, 256, (2, 4, *observation.state_shape), dtype=torch.uint8)
    inputs = states, torch.randint(0, 4, (2, 4)), torch.rand(2, 4), torch.arange(4).repeat(2, 1)
    with torch.no_grad():
        for name, value in model(*inputs)._asdict().items():
            other = getattr(loaded(*inputs), name)
            assert other is value or torch.equal(other, value), name
    if observation.is_vector:
        assert {"state_encoder.mean", "state_encoder.scale"} <= load_file(tmp_path / "saved/model.safetensors").keys()


@pytest.mark.parametrize("scale", [0.0, -1.0])
def test_a_scale_that_no_data_has_is_refused(tmp_path: Path, scale: float) -> None:
    model = make_model(RAM)
    with torch.no_grad():
        model.state_encoder.get_buffer("scale")[5] = scale
    model.save_pretrained(tmp_path / "saved")
    with pytest.raises(InputError, match=r"state_encoder\.scale holds a number that is not positive"):
        DecisionTransformer.from_pretrained(tmp_path / "saved")


@pytest.mark.parametrize(
    ("observation", "edits"),
    [
        (FRAMES, {"observation": RAM.to_json()}),
        (FRAMES, {"observation": RAM.to_json(), "model": {"observation": "ram"}}),
        (RAM, {"observation": FRAMES.to_json()}),
        (RAM, {"observation": FRAMES.to_json(), "model": {"observation": "frames"}}),
        (RAM, {"observation": BALL.to_json(), "model": {"observation": "variables"}}),
        (BALL, {"observation": RAM.to_json(), "model": {"observation": "ram", "variables": []}}),
        (BALL, {"model": {"variables": ["ball_y", "ball_x", "player_x"]}}),
        (BALL, {"observation": {"kind": "pixels"}}),
    ],
)
def test_a_checkpoint_that_contradicts_its_observation_is_refused(
    tmp_path: Path, observation: ObservationSpec, edits: Any
) -> None:
    make_model(observation).save_pretrained(tmp_path / "saved")
    file = tmp_path / "saved" / "config.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content | edits | {"model": content["model"] | edits.get("model", {})}))
    with pytest.raises(InputError, match="is damaged or from another project") as error:
        DecisionTransformer.from_pretrained(tmp_path / "saved")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"observation": "pixels"}, "`observation` must be 'frames', 'ram' or 'variables', not 'pixels'"),
        ({"variables": ("ball_x",)}, "`variables` has no effect on `observation` frames; leave it out, or set"),
        ({"observation": "ram", "variables": ("ball_x",)}, "`variables` has no effect on `observation` ram"),
        ({"observation": "ram", "frame_differences": True}, "`frame_differences` has no effect on `observation` ram"),
        ({"observation": "ram", "encoder_channels": (1, 2, 3)}, "`encoder_channels` has no effect on"),
        ({"predict": ("state",)}, "`predict` state needs `observation` ram or variables"),
        ({"predict": ("return",), "state_loss_weight": 2.0}, "`state_loss_weight` has no effect without `predict`"),
        ({"return_loss_weight": 2.0}, "`return_loss_weight` has no effect without `predict` return; leave it out"),
        ({"observation": "ram", "predict": ("state",), "state_loss_weight": -1.0}, "must be at least 0, not -1"),
        ({"predict": ("return",), "return_loss_weight": float("nan")}, "must be at least 0, not nan"),
        ({"predict": ("reward",)}, "`predict` may name state and return, each once, not reward"),
        ({"predict": ("return", "return")}, "`predict` may name state and return, each once, not return return"),
    ],
)
def test_configs_that_contradict_themselves_are_refused(settings: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        ModelConfig(**settings)
    assert "\n" not in str(error.value)


def test_model_card_and_reports_say_what_the_model_observes(tmp_path: Path) -> None:
    store = write_random_store(tmp_path / "store", [9], ram=True)
    sentences = {
        FRAMES: "The model reads four stacked 84×84 frames per step",
        RAM: "The model reads the 128 bytes of the emulator's RAM per step",
        BALL: "The model reads 3 variables of the emulator's RAM (ball_x, ball_y, player_x) per step",
    }
    for observation, sentence in sentences.items():
        model = make_model(observation)
        model.dataset = DatasetInfo.from_store(store)
        assert sentence in model.generate_model_card(repo_id="user/name").content
    config = ModelConfig(observation="variables", variables=BALL.names, predict=("state",))
    deviations = describe_deviations("Breakout", config, None)
    assert deviations == (
        "observation = variables (paper: frames), variables = ball_x ball_y player_x (paper: none), predict = state "
        "(paper: none)"
    )
