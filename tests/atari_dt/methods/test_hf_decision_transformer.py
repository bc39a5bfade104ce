"""Hugging Face's Decision Transformer in the pipeline: training, resuming, acting, and looking inside."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from atari_dt.evaluation.evaluator import evaluate
from atari_dt.evaluation.play_config import PlayConfig
from atari_dt.games.presets import default_settings
from atari_dt.interpretation.saliency import gradient_times_input
from atari_dt.interpretation.tracing import trace_episodes
from atari_dt.method_config import HF_TRAINING, HFDecisionTransformerConfig, read_method_config
from atari_dt.methods import find_method, load_model
from atari_dt.model.hf_decision_transformer import HFDecisionTransformer
from atari_dt.policies.decision_transformer import DecisionTransformerPolicy
from atari_dt.policies.protocol import PROTOCOLS, EvaluationProtocol
from atari_dt.training import train
from atari_dt.training.optimizer import make_optimizer
from replay_data import InputError, TrajectoryStore
from replay_data.testing import write_random_store
from tests.atari_dt.hf_models import SMALL, call_plain, load_plain, small_hf_model

TRAINING = dataclasses.replace(
    HF_TRAINING, max_updates=8, batch_size=6, log_every=2, checkpoint_every=4, device="cpu", compile="off"
)

K = SMALL.context_length


@pytest.fixture(scope="module")
def ram_store(tmp_path_factory: pytest.TempPathFactory) -> TrajectoryStore:
    return write_random_store(tmp_path_factory.mktemp("stores") / "ram", [12, 3, 20, 1], ram=True)


def test_a_resumed_run_is_the_run_that_never_stopped(
    ram_store: TrajectoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atari_dt.training.loop.flops_per_window", lambda *_: 1)
    once = train(ram_store, tmp_path / "once", SMALL, TRAINING, show_progress=False)
    shutil.copytree(tmp_path / "once", tmp_path / "resumed")
    shutil.rmtree(tmp_path / "resumed" / "checkpoints" / "update-00000008")
    torch.manual_seed(99)
    resumed = train(ram_store, tmp_path / "resumed", SMALL, TRAINING, resume=True, show_progress=False)
    halfway = load_model(tmp_path / "once" / "checkpoints" / "update-00000004").state_dict()
    for name, weights in once.state_dict().items():
        assert torch.equal(weights, resumed.state_dict()[name])
        is_unused = name.startswith(
            ("transformer.predict_state", "transformer.predict_return", "transformer.encoder.w")
        )
        assert is_unused or not torch.equal(weights, halfway[name]), name
    assert isinstance(once, HFDecisionTransformer)
    assert once.scaling.returns == np.abs(ram_store.returns_to_go).max()
    assert ram_store.ram is not None
    normalized = once.encode_states(torch.from_numpy(np.array(ram_store.ram))).numpy()
    assert np.allclose(normalized[:, 1:].mean(0), 0, atol=1e-5)
    assert np.allclose(normalized[:, 1:].std(0), 1, atol=1e-5)
    assert not normalized[:, 0].any()  # the byte is constant


def test_an_update_trains_what_the_loss_depends_on() -> None:
    """The layers of transformers are decayed like PyTorch's, and nothing is in the optimizer that has no gradient."""
    model = small_hf_model()
    decayed, others = (group["params"] for group in make_optimizer(model, HF_TRAINING).param_groups)
    names = {id(parameter): name.removeprefix("transformer.") for name, parameter in model.named_parameters()}
    blocks = [
        f"encoder.h.{i}.{layer}" for i in range(2) for layer in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    ]
    linear = [*blocks, "embed_return", "embed_state", "embed_action", "predict_action.0"]
    assert {names[id(parameter)] for parameter in decayed} == {f"{name}.weight" for name in linear}
    unused = {
        "encoder.wte.weight",
        *(f"predict_{head}.{part}" for head in ("state", "return") for part in ("weight", "bias")),
    }
    assert {names[id(parameter)] for parameter in (*decayed, *others)} == set(names.values()) - unused


def test_the_config_is_read_back_and_has_defaults_of_its_own(
    ram_store: TrajectoryStore, store: TrajectoryStore
) -> None:
    config = HFDecisionTransformerConfig(observation="variables", variables=("ball_x", "ball_y"), activation="gelu")
    assert read_method_config(config.to_json()) == config
    assert default_settings("hf_decision_transformer", "Pong") == (HFDecisionTransformerConfig(), HF_TRAINING)
    network = find_method(config).make_network(config, ram_store)
    assert network.observation.names == ("ball_x", "ball_y")
    assert network.observation.state_shape == (2,)
    with pytest.raises(InputError, match="has no RAM"):
        find_method(config).make_network(config, store)


@pytest.mark.parametrize(
    "protocol", [EvaluationProtocol(), EvaluationProtocol(reward_units="raw", integer_returns=True)]
)
def test_a_rolling_context_is_one_that_is_padded_on_the_left(
    protocol: EvaluationProtocol, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Play three environments, one of which restarts, and call transformers on the last K steps of each."""
    model = small_hf_model()
    model.save_pretrained(tmp_path / "saved")
    plain, _ = load_plain(tmp_path / "saved")
    rng = np.random.default_rng(0)
    num_steps, restart_step = 11, 4
    states = rng.integers(0, 256, (num_steps, 3, 128), dtype=np.uint8)
    rewards = rng.integers(-3, 4, (num_steps, 3)).astype(np.float32)
    policy = DecisionTransformerPolicy(model, 3, protocol)
    logits = keep_logits(policy, monkeypatch)
    envs = np.arange(3)
    policy.start(envs, np.array([30.5, 20, -10.5], dtype=np.float32), envs)
    starts, targets, chosen = [0, 0, 0], [30.5, 20.0, -10.5], []
    for t in range(num_steps):
        if t == restart_step:
            policy.start(np.array([1]), np.array([25.75], dtype=np.float32), np.array([9]))
            starts[1], targets[1] = t, 25.75
        chosen.append(policy.act(envs, states[t], rewards[t]))
        for env in envs:
            window = range(max(starts[env], t - K + 1), t + 1)
            received = rewards[:, env] if protocol.reward_units == "raw" else rewards[:, env].clip(-1, 1)
            returns = [float(targets[env] - sum(received[starts[env] + 1 : n + 1])) for n in window]
            if protocol.integer_returns:
                returns = [float(int(value)) for value in returns]
            actions = [int(chosen[n][env]) for n in window[:-1]]
            timesteps = [n - starts[env] for n in window]
            with torch.inference_mode():
                output = call_plain(plain, K, states[list(window), env], actions, returns, timesteps)
            assert torch.allclose(logits[-1][env], output.action_preds[0, -1], atol=1e-5)


@pytest.mark.parametrize("context_length", [1, 20])
def test_logits_are_the_same_bits_for_any_number_of_environments(
    context_length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small_hf_model(HFDecisionTransformerConfig(context_length))
    states = np.random.default_rng(0).integers(0, 256, (3, 33, 128), dtype=np.uint8)
    logits: dict[int, list[Tensor]] = {}
    for num_envs in (1, 2, 5, 11, 12, 33):
        envs = np.arange(num_envs)
        policy = DecisionTransformerPolicy(model, num_envs)
        logits[num_envs] = keep_logits(policy, monkeypatch)
        policy.start(envs, np.full(num_envs, 30, np.float32), envs)
        for state in states:
            policy.act(envs, state[:num_envs], np.zeros(num_envs, np.float32))
    for num_envs, values in logits.items():
        for step, expected in enumerate(logits[33]):
            assert torch.equal(values[step], expected[:num_envs]), num_envs


def keep_logits(policy: DecisionTransformerPolicy, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Return a list that the logits of every step are added to."""
    logits: list[Tensor] = []
    predict = policy._predictor.predict

    def keep(*args: Any) -> Tensor:
        logits.append(predict(*args))
        return logits[-1]

    monkeypatch.setattr(policy._predictor, "predict", keep)
    return logits


def test_the_timestep_of_the_newest_step_is_refused() -> None:
    with pytest.raises(InputError, match="`window_timestep` must be 'first'"):
        DecisionTransformerPolicy(small_hf_model(), 1, PROTOCOLS["original"])


def test_it_is_evaluated_traced_and_explained(tmp_path: Path) -> None:
    """The traced episode is the evaluated one; the gradient is the limit of a difference."""
    model = small_hf_model()
    model.save_pretrained(tmp_path / "run" / "checkpoints" / "update-00000001")
    play = PlayConfig(episodes=1, max_steps=9, device="cpu")
    (result,) = evaluate(model, [15.0], play, num_envs=1, show_progress=False)
    traced = trace_episodes(tmp_path / "run", play, target_return=15.0, show_progress=False)
    (episode,) = traced.episodes
    assert np.array_equal(episode.actions, result.episodes[0].actions)
    assert episode.attention.shape == (9, 2, 2, K, 3)
    assert np.allclose(episode.attention.sum((-2, -1)), 1, atol=1e-5)
    for step in range(3):  # contexts of fewer than K steps: nothing is seen after their newest state
        assert not episode.attention[step, :, :, step + 1 :].any()
        assert not episode.attention[step, :, :, step, 2].any()

    batch = episode.batch(np.array([2, 7]), torch.device("cpu"))
    saliency = gradient_times_input(model, batch)
    last = batch.attention_mask.sum(1) - 1
    method, rows = find_method(model.config), torch.arange(2)
    for entry in (3, 77):
        scores = []
        for shift in (-0.5, 0.5):
            states = batch.states.double()
            states[rows, last, entry] += shift
            logits = method.score_actions(model, method.encode_states(model, states), batch)
            scores.append(logits[rows, batch.actions[rows, last]])
        normalized = batch.states[rows, last, entry] - model.mean[entry]
        expected = (scores[1] - scores[0]) * normalized
        assert torch.allclose(saliency[rows, last, entry], expected, rtol=0.05, atol=0.02)
