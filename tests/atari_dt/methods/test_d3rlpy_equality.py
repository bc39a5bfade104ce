"""QR-DQN and CQL against d3rlpy 2.8.1; tests/data/make_d3rlpy_losses.py made the numbers."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from atari_dt.batches.transitions import TransitionBatch
from atari_dt.hardware import Compute
from atari_dt.method_config import VALUE_TRAINING, CQLConfig, QRDQNConfig
from atari_dt.methods.value_based import ValueObjective
from atari_dt.model.q_network import QNetwork
from atari_dt.training.distributed import ProcessGroup
from atari_dt.training.learner import Learner
from tests.conftest import DATA
from tests.data.make_d3rlpy_losses import ALPHA, CASES, DISCOUNT, FloatArray, digest, make_batch, make_weights

D3RLPY = json.loads((DATA / "d3rlpy_losses.json").read_text())["cases"]


def build(weights: dict[str, FloatArray], config: QRDQNConfig, num_actions: int) -> QNetwork:
    """Return a network with the weights that d3rlpy's network had."""
    network = QNetwork(config, num_actions)
    prefixed = {(f"encoder.{name}" if "conv" in name else name): torch.from_numpy(w) for name, w in weights.items()}
    network.load_state_dict(prefixed)
    return network


def make_learner(case: str, config: QRDQNConfig, same_target: bool) -> tuple[Learner, TransitionBatch]:
    """Return a learner with d3rlpy's online and target networks, and d3rlpy's batch."""
    num_actions, num_quantiles, seed = CASES[case]
    online, other = (make_weights(10 * seed + i, num_actions, num_quantiles) for i in (0, 1))
    arrays = make_batch(seed, num_actions)
    assert digest([*arrays.values(), *online.values(), *other.values()]) == D3RLPY[case]["digest"]
    compute = Compute(torch.device("cpu"), torch.float32, compiled=False)
    learner = Learner(build(online, config, num_actions), VALUE_TRAINING, compute, ProcessGroup())
    if not same_target:
        assert isinstance(learner.objective, ValueObjective)
        learner.objective.target.load_state_dict(build(other, config, num_actions).state_dict())
    arrays["rewards"] = arrays["rewards"].clip(-1, 1)  # as the loader does
    return learner, TransitionBatch(**{name: torch.from_numpy(array) for name, array in arrays.items()})


def close(actual: torch.Tensor | Sequence[float], expected: Sequence[float]) -> None:
    np.testing.assert_allclose(np.asarray(actual), np.asarray(expected), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("method", ["qrdqn", "cql"])
def test_updates_equal_those_of_d3rlpy(case: str, method: str) -> None:
    num_quantiles, expected = CASES[case][1], D3RLPY[case][method]
    config = (
        QRDQNConfig(discount=DISCOUNT, num_quantiles=num_quantiles)
        if method == "qrdqn"
        else CQLConfig(discount=DISCOUNT, num_quantiles=num_quantiles, alpha=ALPHA)
    )
    learner, batch = make_learner(case, config, same_target=method == "cql")
    assert isinstance(learner.model, QNetwork)
    close(learner.model.q_values(batch.states[:1])[0].detach(), expected["q_values"])

    first = dict(zip(learner.metrics, learner.update(batch, 1, VALUE_TRAINING.learning_rate).tolist(), strict=True))
    close(
        [first["loss"], first["td_loss"], first["grad_norm"]],
        [expected["loss"], expected.get("td_loss", expected["loss"]), expected["gradient_norm"]],
    )
    gradients = {name: parameter.grad for name, parameter in learner.model.named_parameters()}
    head, conv = gradients["head.bias"], gradients["encoder.conv1.bias"]
    assert head is not None
    assert conv is not None
    close(head[:: num_quantiles // 8], expected["head_bias_gradient"])
    close(conv[:8], expected["conv1_bias_gradient"])

    if method == "qrdqn":  # d3rlpy's CQL becomes double DQN as soon as the networks differ
        losses = [first["loss"]] + [
            learner.update(batch, update, VALUE_TRAINING.learning_rate)[0].item() for update in (2, 3)
        ]
        close(losses, expected["losses_of_updates"])


@pytest.mark.parametrize("case", CASES)
def test_the_conservative_term_equals_that_of_d3rlpy_beside_another_target(case: str) -> None:
    """With a target network of its own, CQL is QR-DQN plus the weighted term, which d3rlpy computed apart."""
    learner, batch = make_learner(
        case, CQLConfig(discount=DISCOUNT, num_quantiles=CASES[case][1], alpha=ALPHA), same_target=False
    )
    with torch.no_grad():
        loss, _, td_loss, _ = learner.objective(batch).tolist()
    expected: dict[str, Any] = D3RLPY[case]
    close([td_loss, loss - td_loss], [expected["qrdqn"]["loss"], ALPHA * expected["cql"]["conservative_loss"]])
