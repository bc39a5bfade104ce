"""The heads that predict the next state and return, against NumPy, and in training."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from atari_dt.batches.contexts import ContextBatch, ContextLoader
from atari_dt.config import Head, ModelConfig, TrainingConfig
from atari_dt.games.ram_variables import find_observation
from atari_dt.methods.sequence import ActionPrediction
from atari_dt.training import read_metrics, train
from replay_data.testing import write_random_store
from tests.atari_dt.model.networks import SMALL
from tests.atari_dt.model.test_vector_encoder import BALL, make_model

CPU = torch.device("cpu")
BOTH: tuple[Head, ...] = ("state", "return")


def random_batch(seed: int, num_contexts: int, steps: int) -> ContextBatch:
    """Return contexts of 1 to K steps, whose padding is full of other numbers."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, steps + 1, num_contexts)
    return ContextBatch(
        states=torch.from_numpy(rng.integers(0, 256, (num_contexts, steps, 3), dtype=np.uint8)),
        actions=torch.from_numpy(rng.integers(0, 4, (num_contexts, steps))),
        returns_to_go=torch.from_numpy(rng.normal(0, 5, (num_contexts, steps)).astype(np.float32)),
        timesteps=torch.arange(steps).repeat(num_contexts, 1),
        attention_mask=torch.from_numpy(np.arange(steps) < lengths[:, None]),
    )


@given(st.integers(0, 2**31), st.sampled_from([BOTH, ("return",), ("state",), ("return", "state")]), st.booleans())
@settings(max_examples=20, deadline=None)
def test_the_losses_equal_a_loop(seed: int, heads: Any, conditioned: bool) -> None:
    weights = {f"{head}_loss_weight": {"state": 0.5, "return": 3.0}[head] for head in heads}
    conditioning = "return" if conditioned else "none"
    model = make_model(BALL, dropout=0.0, predict=heads, conditioning=conditioning, **weights)
    batch = random_batch(seed, num_contexts=3, steps=4)
    objective = ActionPrediction(model)
    with torch.no_grad():
        values = dict(zip(objective.metrics, objective(batch).tolist(), strict=True))
        output = model(batch.states, batch.actions, batch.returns_to_go, batch.timesteps)
    mean, scale = (getattr(model.state_encoder, name).numpy().astype(np.float64) for name in ("mean", "scale"))
    expected = dict.fromkeys(("action_loss", "action_accuracy", "state_loss", "return_loss"), 0.0)
    num_steps = int(batch.attention_mask.sum())
    for row, column in np.argwhere(batch.attention_mask.numpy()):
        logits = output.action_logits[row, column].numpy().astype(np.float64)
        action = int(batch.actions[row, column])
        expected["action_loss"] += (np.log(np.exp(logits).sum()) - logits[action]) / num_steps
        expected["action_accuracy"] += (logits.argmax() == action) / num_steps
        if column + 1 < 4 and batch.attention_mask[row, column + 1]:
            if "state" in heads:
                target = (batch.states[row, column + 1].numpy() - mean) / scale
                errors = output.state_predictions[row, column].numpy() - target
                expected["state_loss"] += (errors**2).mean() / num_steps
            if "return" in heads:
                error = output.return_predictions[row, column, 0] - batch.returns_to_go[row, column + 1]
                expected["return_loss"] += float(error) ** 2 / num_steps
    assert objective.validation_loss == "action_loss"
    for name, value in values.items():
        if name != "loss":
            assert value == pytest.approx(expected[name], rel=1e-3, abs=1e-5), name
    total = expected["action_loss"] + sum(weights[f"{head}_loss_weight"] * expected[f"{head}_loss"] for head in heads)
    assert values["loss"] == pytest.approx(total, rel=1e-3)
    assert set(values) == {"loss", "action_accuracy", "action_loss", *(f"{head}_loss" for head in heads)}


@pytest.mark.parametrize("conditioning", ["return", "none"])
@pytest.mark.parametrize("heads", [(), ("state",), ("return",), BOTH])
def test_predictions_are_made_at_the_action_tokens(heads: Any, conditioning: Any) -> None:
    """They depend on the action of their step, but on nothing that comes after it; logits do not depend on them."""
    model = make_model(BALL, predict=heads, conditioning=conditioning)
    batch = random_batch(0, num_contexts=2, steps=4)

    def run(**changes: Any) -> Any:
        each = dataclasses.replace(batch, **changes)
        with torch.no_grad():
            return model(each.states, each.actions, each.returns_to_go, each.timesteps)

    output, step = run(), 2
    for head, width in (("state", 3), ("return", 1)):
        predictions = getattr(output, f"{head}_predictions")
        assert (predictions is not None) == (head in heads)
        if head not in heads:
            continue
        assert predictions.shape == (2, 4, width)
        assert predictions.dtype == torch.float32
        later = {name: getattr(batch, name).clone() for name in ("states", "returns_to_go", "actions")}
        for tensor in later.values():
            tensor[:, step + 1 :] = 3 - tensor[:, step + 1 :]
        unchanged = getattr(run(**later), f"{head}_predictions")
        assert torch.allclose(unchanged[:, : step + 1], predictions[:, : step + 1], atol=1e-6)
        assert not torch.allclose(unchanged[:, step + 1 :], predictions[:, step + 1 :])
        actions = batch.actions.clone()
        actions[:, step] = (actions[:, step] + 1) % 4
        assert not torch.allclose(getattr(run(actions=actions), f"{head}_predictions")[:, step], predictions[:, step])
    plain = make_model(BALL, conditioning=conditioning)
    plain.load_state_dict({name: each for name, each in model.state_dict().items() if "_head" not in name})
    with torch.no_grad():
        logits = plain(batch.states, batch.actions, batch.returns_to_go, batch.timesteps).action_logits
        acting = model.predict(model.encode_states(batch.states), batch.actions, batch.returns_to_go, batch.timesteps)
    assert torch.allclose(output.action_logits, logits, atol=1e-6)
    assert torch.allclose(acting.action_logits, logits, atol=1e-6)
    assert acting.state_predictions is acting.return_predictions is None  # nobody reads them while acting


def test_a_run_with_heads_resumes_bit_for_bit_and_learns(tmp_path: Path) -> None:
    store = write_random_store(tmp_path / "store", [30, 20, 40], repeat_frames=True, ram=True)
    config = ModelConfig(**SMALL, observation="variables", variables=BALL.names, predict=BOTH)
    training = TrainingConfig(
        epochs=20, max_updates=16, batch_size=8, log_every=4, checkpoint_every=8, warmup_tokens=50, device="cpu"
    )
    training = dataclasses.replace(training, learning_rate=3e-3, validation_fraction=0.3)
    model = train(store, tmp_path / "once", config, training, show_progress=False)
    shutil.copytree(tmp_path / "once", tmp_path / "resumed")
    shutil.rmtree(tmp_path / "resumed" / "checkpoints" / "update-00000016")
    resumed = train(store, tmp_path / "resumed", config, training, resume=True, show_progress=False)
    for name, tensor in model.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name
    lines, last = read_metrics(tmp_path / "once"), read_metrics(tmp_path / "resumed")[-1]
    assert [line.update for line in lines] == [4, 8, 12, 16]
    for line in (lines[-1], last):
        assert line.action_loss is not None
        assert line.state_loss is not None
        assert line.return_loss is not None
        assert line.loss == pytest.approx(line.action_loss + line.state_loss + 0.01 * line.return_loss, rel=1e-5)
    assert (last.loss, last.state_loss, last.validation_loss) == (
        *(lines[-1].loss, lines[-1].state_loss),
        lines[-1].validation_loss,
    )
    assert lines[-1].return_loss is not None
    assert lines[0].return_loss is not None
    assert lines[-1].return_loss < lines[0].return_loss
    assert model.state_encoder.mean.tolist() == pytest.approx(  # type: ignore[union-attr,operator]
        find_observation("variables", BALL.names, "Breakout").select(store.require_ram()).mean(0).tolist()
    )
    batch = ContextLoader(store, 4, CPU, BALL).batch(np.arange(8))
    assert batch.states.shape == (8, 4, 3)
