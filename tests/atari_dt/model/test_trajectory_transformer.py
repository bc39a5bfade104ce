"""The network of the Trajectory Transformer: masks, likelihoods, its cache, and checkpoints."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from atari_dt.methods import load_model
from atari_dt.model.trajectory_transformer import TrajectoryTransformer
from atari_dt.trajectory_config import TrajectoryTransformerConfig
from replay_data import InputError
from replay_data.observation import variables_spec

CONFIG = TrajectoryTransformerConfig(
    sequence_length=3, vocab_size=5, num_layers=2, num_heads=2, embed_dim=16, variables=("ball_x", "player_x")
)
OBSERVATION = variables_spec(("ball_x", "player_x"), (99, 72))
NUM_ACTIONS = 3
USED = [4, 5, NUM_ACTIONS, 2, 5]
"""Number of tokens of each entry of a step."""


@pytest.fixture
def model() -> TrajectoryTransformer:
    """A network with random weights that are large enough for every token to matter."""
    model = TrajectoryTransformer(CONFIG, NUM_ACTIONS, OBSERVATION).eval()
    columns = [np.arange(10, 50, 10), np.arange(100), np.arange(NUM_ACTIONS), np.arange(2), np.arange(100)]
    model.discretizer.fit([column.astype(np.float32) for column in columns], "quantile")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def random_tokens(num_rows: int, num_tokens: int) -> Tensor:
    used = torch.tensor(USED).repeat(CONFIG.sequence_length)[:num_tokens]
    return (torch.rand(num_rows, num_tokens) * used).long()


def difference(logits: Tensor, others: Tensor) -> float:
    """Return the largest difference of logits, whose impossible tokens must be the same."""
    assert torch.equal(logits.isinf(), others.isinf())
    return (logits - others)[~logits.isinf()].abs().max().item()


def test_only_tokens_of_the_next_entry_are_possible(model: TrajectoryTransformer) -> None:
    assert (model.tokens_per_step, model.max_tokens) == (5, 14)
    with torch.no_grad():
        logits = model(random_tokens(2, 14))
        model.discretizer.bounds[2] = torch.arange(4)  # as if the data had more actions than the game
        forged = model(random_tokens(2, 14))
    for position in range(14):
        possible = [token < USED[(position + 1) % 5] for token in range(5)]
        assert (logits[:, position] > -math.inf).tolist() == [possible] * 2
        assert (forged[:, position] > -math.inf).tolist() == [possible] * 2
    with pytest.raises(ValueError, match="at most 14 tokens, not 15"):
        model(random_tokens(1, 15))


def test_no_token_sees_later_ones_or_values(model: TrajectoryTransformer) -> None:
    """A value influences the logits that are computed at its own position, and no others."""
    tokens = random_tokens(1, 14)
    with torch.no_grad():
        logits = model(tokens)
        for position in range(14):
            changed = tokens.clone()
            changed[0, position] = (changed[0, position] + 1) % USED[position % 5]
            other = model(changed)
            moved = [difference(logits[:, each], other[:, each]) > 1e-5 for each in range(14)]
            is_value = position % 5 == 4
            assert moved == [each == position if is_value else each >= position for each in range(14)]


def test_cached_logits_equal_those_of_whole_sequences(model: TrajectoryTransformer) -> None:
    with torch.no_grad():
        for first in (1, 4, 5, 8, 13):
            tokens = random_tokens(3, 14)
            cache, logits = model.start(tokens[:, :first])
            assert difference(logits, model(tokens)[:, first - 1]) < 1e-5
            for position in range(first, 14):
                if position == 9:  # go on with other sequences, one of them twice
                    rows = torch.tensor([2, 0, 2, 2])
                    before, cache, tokens = cache, cache.select(rows), tokens[rows]
                    tokens = torch.cat([tokens[:, :9], random_tokens(4, 14)[:, 9:]], dim=1)
                    model.extend(before, tokens[:3, 9])  # the selected sequences do not share memory with the old ones
                assert cache.length == position
                logits = model.extend(cache, tokens[:, position])
                assert difference(logits, model(tokens)[:, position]) < 1e-5
        with pytest.raises(ValueError, match="at most 14 tokens, not 15"):
            model.extend(cache, tokens[:, 0])


def test_the_likelihood_of_a_sequence_is_the_product_of_its_conditional_probabilities(
    model: TrajectoryTransformer,
) -> None:
    """The probabilities of all continuations of a sequence sum to 1, whether one token follows or three."""
    tokens = random_tokens(4, 13)
    with torch.no_grad():
        log_probabilities = model(tokens).log_softmax(-1)[:, :-1].gather(-1, tokens[:, 1:, None])
        for row, sequence in enumerate(tokens):
            product = 1.0
            for position in range(1, 13):
                logits = model(sequence[None, :position])[0, -1].double().numpy()
                weights = np.exp(logits - logits.max())
                product *= weights[sequence[position]] / weights.sum()
            assert log_probabilities[row].sum().exp().item() == pytest.approx(product, rel=1e-4)

        start = tokens[0, :7]
        entries = [torch.arange(USED[position % 5]) for position in (7, 8, 9)]
        continuations = torch.cartesian_prod(*entries)
        whole = torch.cat([start.expand(len(continuations), -1), continuations], dim=1)
        log_probabilities = model(whole).log_softmax(-1)[:, 6:9].gather(-1, continuations[..., None])
        assert log_probabilities.sum((1, 2)).exp().sum().item() == pytest.approx(1, abs=1e-5)


def test_steps_round_trip(model: TrajectoryTransformer) -> None:
    states = torch.tensor([[[10, 3], [40, 99]], [[255, 50], [0, 0]]], dtype=torch.uint8)
    actions, rewards = torch.tensor([[2, 0], [1, 1]]), torch.tensor([[0.0, 1], [1, 0]])
    tokens = model.encode_steps(states, actions, rewards, 10 * rewards)
    assert tokens.shape == (2, 10)
    steps = tokens.view(2, 2, 5)
    assert torch.equal(steps[..., 2], actions)
    assert torch.equal(model.encode_observations(states), steps[..., :2])
    assert torch.equal(model.decode_reward(steps[..., 3]), rewards)
    observations, values = model.decode_observations(steps[..., :2]), model.decode_value(steps[..., 4])
    assert observations[..., 0].tolist() == [[10, 40], [40, 10]]  # clipped to the values of the data
    assert observations[..., 1].tolist() == [[9.5, 89.5], [49.5, 9.5]]
    assert values.tolist() == [[9.5, 9.5], [9.5, 9.5]]
    assert torch.equal(model.encode_steps(observations, actions, rewards, values), tokens)
    certain = torch.where(torch.arange(5) == 1, 0.0, -math.inf)
    assert (model.expected_reward(certain).item(), model.expected_value(certain).item()) == (1, 29.5)


def test_checkpoints_hold_weights_and_tokens(model: TrajectoryTransformer, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "checkpoint")
    loaded = load_model(tmp_path / "checkpoint")
    assert isinstance(loaded, TrajectoryTransformer)
    assert (loaded.config, loaded.observation, loaded.num_actions) == (CONFIG, OBSERVATION, NUM_ACTIONS)
    tokens = random_tokens(2, 14)
    with torch.no_grad():
        assert torch.equal(loaded(tokens), model(tokens))
    assert torch.equal(loaded.discretizer.means, model.discretizer.means)

    path = tmp_path / "checkpoint" / "config.json"
    content = json.loads(path.read_text())
    damages = {"vocab_size": 2, "num_layers": 10**9, "sequence_length": 10**15, "embed_dim": 10**12}
    for name, value in damages.items():
        path.write_text(json.dumps({**content, "model": {**content["model"], name: value}}))
        with pytest.raises(InputError, match="is damaged"):
            load_model(tmp_path / "checkpoint")


@pytest.mark.parametrize(
    ("entry", "bounds", "reason"),
    [(0, (3.0, 2.0), "bounds that do not ascend"), (-3, (0.5, 0.6), "actions other tokens than their indices")],
)
def test_bounds_that_no_data_has_are_refused(
    model: TrajectoryTransformer, tmp_path: Path, entry: int, bounds: tuple[float, float], reason: str
) -> None:
    forged = copy.deepcopy(model)
    forged.discretizer.bounds[entry, :2] = torch.tensor(bounds)
    forged.save_pretrained(tmp_path / "checkpoint")
    with pytest.raises(InputError, match=f"is damaged .*{reason}"):
        load_model(tmp_path / "checkpoint")


def test_more_actions_than_tokens_are_refused() -> None:
    with pytest.raises(InputError, match="`vocab_size` must be at least 18, the number of actions, not 5"):
        TrajectoryTransformer(CONFIG, 18, OBSERVATION)
