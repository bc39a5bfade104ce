"""Training the Trajectory Transformer: its loss, a chain with known probabilities, resumed runs, and bad settings."""

from __future__ import annotations

import dataclasses
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from atari_dt.batches.contexts import ContextLoader
from atari_dt.batches.trajectories import TrajectoryBatch
from atari_dt.games.presets import default_settings
from atari_dt.method_config import read_method_config
from atari_dt.methods import METHODS, load_model
from atari_dt.methods.trajectory_transformer import TokenPrediction
from atari_dt.model.pretrained import find_checkpoints
from atari_dt.model.trajectory_transformer import TrajectoryTransformer
from atari_dt.training import metrics, read_metrics, train
from atari_dt.trajectory_config import TRAJECTORY_TRAINING, TrajectoryTransformerConfig
from replay_data import InputError, TrajectoryStore
from replay_data.observation import variables_spec
from replay_data.testing import write_random_store

CONFIG = TrajectoryTransformerConfig(
    sequence_length=4,
    vocab_size=8,
    num_layers=1,
    num_heads=2,
    embed_dim=16,
    action_weight=5,
    reward_weight=2,
    value_weight=3,
    variables=("ball_x", "player_x"),
)
METHOD = METHODS["trajectory_transformer"]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def ram_store(tmp_path_factory: pytest.TempPathFactory) -> TrajectoryStore:
    return write_random_store(tmp_path_factory.mktemp("ram") / "store", [9, 2, 14, 3], ram=True)


def make_model(store: TrajectoryStore) -> TrajectoryTransformer:
    """Return a network with random weights that are large enough for its predictions to differ."""
    model = METHOD.make_network(CONFIG, store).eval()
    assert isinstance(model, TrajectoryTransformer)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def test_the_loss_is_the_weighted_cross_entropy_of_all_tokens_but_padding(ram_store: TrajectoryStore) -> None:
    model = make_model(ram_store)
    batch = METHOD.make_loader(CONFIG, ram_store, CPU).batch([0, 9, 12, 26])
    assert batch.mask.sum(1).tolist() == [4, 2, 4, 3]
    tokens = model.encode_steps(batch.states, batch.actions, batch.rewards, batch.values)
    objective = METHOD.make_objective(model, seed=0)
    with torch.no_grad():
        logits = model(tokens[:, :-1]).double().numpy()
        loss, accuracy = objective(batch).tolist()
        parts = []
        for row in range(4):  # each process of a run has some of the batch
            part = dataclasses.replace(batch, **{name: each[row : row + 1] for name, each in vars(batch).items()})
            parts.append(objective(part) * batch.mask[row].sum() / batch.mask.sum())
    expected, correct = 0.0, 0
    for row, length in enumerate([4, 2, 4, 3]):
        for position in range(1, 5 * length):
            scores = logits[row, position - 1]
            log_sum = math.log(sum(math.exp(score) for score in scores))
            expected += (log_sum - scores[tokens[row, position]]) * [1, 1, 5, 2, 3][position % 5]
            if position % 5 == 2:
                correct += int(scores.argmax() == tokens[row, position])
    assert loss == pytest.approx(expected / (13 * 5), rel=1e-5)
    assert accuracy == pytest.approx(correct / 13)
    assert sum(parts).tolist() == pytest.approx([loss, accuracy], rel=1e-5)


P_STATE = np.array([[[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]], [[0.3, 0.3, 0.4], [0.0, 1.0, 0.0]], [[0.5, 0.0, 0.5]] * 2])
P_ACTION = np.array([[0.8, 0.2], [0.5, 0.5], [0.1, 0.9]])
P_REWARD = np.array([[0.0, 1.0], [0.6, 0.4]])
P_VALUE = np.array([[0.9, 0.1], [0.3, 0.7], [0.5, 0.5]])
"""Probabilities of the next state given state and action, and of action, reward and value given the state or action."""


def test_a_trained_model_gives_sequences_of_a_chain_their_likelihoods() -> None:
    """Compare with the products of the chain's own probabilities, for all sequences of two steps.

    The model is trained on each sequence with its probability as a weight, so that no sampling disturbs it.
    """
    sequences = torch.cartesian_prod(*map(torch.arange, (3, 2, 2, 2, 3, 2, 2, 2)))
    steps = sequences.view(-1, 2, 4)
    first, second = steps.permute(1, 2, 0).numpy()
    expected = P_STATE[first[0], first[1], second[0]]
    for state, action, reward, value in (first, second):
        expected = expected * P_ACTION[state, action] * P_REWARD[action, reward] * P_VALUE[state, value]
    by_state = expected.reshape(3, -1)
    assert by_state.sum(1) == pytest.approx(np.ones(3))

    def make_batch(steps: torch.Tensor) -> TrajectoryBatch:
        states, actions, rewards, values = steps.unbind(-1)
        mask = torch.ones_like(states, dtype=torch.bool)
        return TrajectoryBatch(states[..., None], actions, rewards.float(), values.float(), mask)

    config = TrajectoryTransformerConfig(sequence_length=2, vocab_size=3, num_layers=1, num_heads=2, embed_dim=16)
    model = TrajectoryTransformer(config, 2, variables_spec(("state",), (0,))).eval()
    model.discretizer.fit([np.arange(3), np.arange(2), np.arange(2), np.arange(2)], "quantile")
    objective = TokenPrediction(model)
    possible = torch.from_numpy(expected > 0)
    batch, weights = make_batch(steps[possible]), torch.from_numpy(expected).float()[possible]
    optimizer = torch.optim.Adam(model.parameters(), betas=(0.9, 0.95), fused=True)
    for update in range(200):
        optimizer.param_groups[0]["lr"] = 0.02 * (1 - update / 200)
        losses, _ = objective.token_losses(batch)
        optimizer.zero_grad()
        (losses.sum((1, 2)) * weights).sum().backward()
        optimizer.step()

    with torch.no_grad():
        losses, _ = objective.token_losses(make_batch(steps))
        logits = model(sequences[:, :-1])
    likelihoods = (-losses.sum((1, 2))).exp().numpy()
    assert likelihoods.reshape(3, -1).sum(1) == pytest.approx(np.ones(3), abs=1e-4)
    probabilities = logits.softmax(-1).gather(-1, sequences[:, 1:, None])[..., 0]
    assert likelihoods == pytest.approx(probabilities.prod(1).numpy(), rel=1e-4)
    # Half the sum of the absolute differences is the largest difference in the probability of any event.
    assert np.abs(likelihoods.reshape(3, -1) - by_state).sum(1).max() / 2 < 0.03
    likely = expected > 0.01
    assert likelihoods[likely] == pytest.approx(expected[likely], rel=0.1)


def state_of(checkpoint: Path) -> Mapping[str, torch.Tensor]:
    """Return weights and optimizer of a checkpoint, as flat names."""
    state = torch.load(checkpoint / "training_state.pt", weights_only=True)
    moments = {f"{i}.{name}": each for i, of in state["optimizer"]["state"].items() for name, each in of.items()}
    return {**load_model(checkpoint).state_dict(), **moments}


def test_a_killed_run_resumes_bit_for_bit(
    ram_store: TrajectoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "matmul_peak", lambda *_: 1.0)
    training = dataclasses.replace(
        TRAJECTORY_TRAINING,
        max_updates=4,
        batch_size=8,
        precision="fp32",
        device="cpu",
        log_every=1,
        checkpoint_every=2,
        validation_fraction=0.3,
    )
    model = train(ram_store, tmp_path / "once", CONFIG, training, show_progress=False)
    assert isinstance(model, TrajectoryTransformer)
    shutil.copytree(tmp_path / "once", tmp_path / "killed")
    shutil.rmtree(find_checkpoints(tmp_path / "killed")[-1])
    train(ram_store, tmp_path / "killed", CONFIG, training, resume=True, show_progress=False)
    once, killed = (state_of(find_checkpoints(tmp_path / name)[-1]) for name in ("once", "killed"))
    assert once.keys() == killed.keys()
    for name, tensor in once.items():
        assert torch.equal(killed[name], tensor), name
    lines = read_metrics(tmp_path / "once")
    assert [line.update for line in lines] == [1, 2, 3, 4]
    assert [line.validation_loss is None for line in lines] == [True, False, True, False]


def test_actions_are_scored_by_the_logits_after_the_observation(ram_store: TrajectoryStore) -> None:
    model = make_model(ram_store)
    observation = model.observation
    batch = ContextLoader(ram_store, 4, CPU, observation).batch([2, 9, 13])
    encoded = METHOD.encode_states(model, batch.states)
    with torch.no_grad():
        scores = METHOD.score_actions(model, encoded, batch)
        for row, (start, end) in enumerate([(2, 6), (9, 11), (13, 17)]):
            steps = slice(start, end)
            assert ram_store.ram is not None
            states = torch.from_numpy(observation.select(ram_store.ram[steps]))[None]
            actions = torch.from_numpy(ram_store.actions[steps].astype(np.int64))[None]
            rewards = torch.from_numpy(ram_store.rewards[steps].copy())[None]
            values = torch.full_like(rewards, 0.3)
            tokens = model.encode_steps(states, actions, rewards, values)
            assert scores[row].tolist() == pytest.approx(model(tokens[:, :-3])[0, -1, :4].tolist(), abs=1e-5)
    with pytest.raises(InputError, match="no gradient flows; choose occlusion"):
        METHOD.encode_states(model, batch.states.float().requires_grad_())


def test_the_config_reads_what_it_wrote_and_has_its_own_defaults() -> None:
    assert read_method_config(CONFIG.to_json()) == CONFIG
    config, training = default_settings("trajectory_transformer", "Breakout")
    assert (config, training) == (TrajectoryTransformerConfig(), TRAJECTORY_TRAINING)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sequence_length": 0}, "`sequence_length` must be at least 1, not 0, because a block holds whole steps"),
        ({"observation": "frames"}, "`observation` must be variables or ram"),
        ({"observation": "ram", "variables": ("ball_x",)}, "`variables` has no effect on `observation` ram"),
        ({"vocab_size": 0}, "`vocab_size` must be at least 1, not 0"),
        ({"embed_dim": 30}, r"`embed_dim` \(30\) must be a multiple of `num_heads` \(4\)"),
        ({"discount": math.nan}, "`discount` must be between 0 and 1, not nan"),
        ({"value_weight": math.inf}, "`value_weight` must be at least 0, not inf"),
        ({"discretization": "log"}, "`discretization` must be 'quantile' or 'uniform', not 'log'"),
    ],
)
def test_impossible_settings_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TrajectoryTransformerConfig(**fields)


def test_data_without_ram_or_variables_are_refused(store: TrajectoryStore) -> None:
    with pytest.raises(InputError, match="has no RAM"):
        METHOD.make_network(CONFIG, store)
    with pytest.raises(InputError, match="Breakout has no variable 'lives'"):
        METHOD.make_network(dataclasses.replace(CONFIG, variables=("lives",)), store)
