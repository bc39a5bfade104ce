"""Saliency of models that observe vectors: against closed forms, and in the views of played episodes."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from atari_dt.batches.contexts import ContextBatch
from atari_dt.environment.python_env import PythonVectorEnv
from atari_dt.evaluation.evaluator import evaluate
from atari_dt.evaluation.play_config import PlayConfig
from atari_dt.games.catalogue import find_game
from atari_dt.games.ram_variables import find_observation, name_entries
from atari_dt.interpretation import saliency_visualization
from atari_dt.interpretation.entry_list import NEGATIVE_COLOR, POSITIVE_COLOR
from atari_dt.interpretation.episode_trace import EpisodeTrace, TracedEvaluation
from atari_dt.interpretation.predictions import predict_next
from atari_dt.interpretation.saliency import gradient_times_input
from atari_dt.interpretation.saliency_vectors import entry_occlusion, raised_and_lowered, top_entries
from atari_dt.interpretation.saliency_visualization import visualize_saliency
from atari_dt.interpretation.step_view import StepView, video_frame
from atari_dt.interpretation.tracing import trace_episodes
from atari_dt.interpretation.visualization import visualize
from atari_dt.interpretation.visualization_config import Explained, SaliencyConfig, VisualizationConfig
from atari_dt.method_config import default_config
from atari_dt.model.decision_transformer import DecisionTransformer
from replay_data import InputError
from replay_data.observation import FRAMES, RAM
from tests.atari_dt.interpretation.vector_runs import K, vector_model, vector_run

VARIABLES = ("ball_x", "player_x", "ball_y", "score")


def contexts(lengths: list[int], num_entries: int, seed: int = 0) -> ContextBatch:
    rng = torch.Generator().manual_seed(seed)
    return ContextBatch(
        torch.randint(0, 256, (len(lengths), K, num_entries), dtype=torch.uint8, generator=rng),
        torch.randint(0, 4, (len(lengths), K), generator=rng),
        torch.rand(len(lengths), K, generator=rng) * 9,
        torch.arange(K).repeat(len(lengths), 1),
        torch.arange(K) < torch.tensor(lengths)[:, None],
    )


def last_score(model: DecisionTransformer, batch: ContextBatch, context: int, states: Tensor, explain: str) -> float:
    """Compute the logit or advantage of a context's last action, with other states."""
    steps = int(batch.attention_mask[context].sum())
    arguments = (batch.actions, batch.returns_to_go, batch.timesteps)
    with torch.inference_mode():
        output = model(states[None, :steps], *(values[context : context + 1, :steps] for values in arguments))
    logits = output.action_logits[0, -1].double()
    score = logits[batch.actions[context, steps - 1]]
    return float(score - logits.mean() if explain == "advantage" else score)


def planted_model(weights: Tensor) -> DecisionTransformer:
    """Return a model whose logits are sums of the state tokens, with weights ``[K, num_actions, embed_dim]``."""
    model = vector_model("variables", VARIABLES)

    def predict(state_tokens: Tensor, *_: Any) -> Any:
        parts = torch.einsum("bkd,kad->bka", state_tokens, weights[: state_tokens.shape[1]])
        return SimpleNamespace(action_logits=parts.cumsum(1))

    model.predict = predict  # type: ignore[assignment, method-assign]
    return model


@given(st.lists(st.integers(1, K), min_size=1, max_size=3), st.integers(0, 2**31))
@settings(max_examples=8, deadline=None)
def test_saliency_matches_the_closed_form_of_a_sum_of_tokens(lengths: list[int], seed: int) -> None:
    """A token is tanh(W n + b) of normalized entries n, so both methods have a closed form."""
    planted = torch.randn(K, 4, 16, generator=torch.Generator().manual_seed(seed))
    model = planted_model(planted)
    batch = contexts(lengths, len(VARIABLES), seed)
    encoder: Any = model.state_encoder
    encoder.mean[1] = 44
    batch.states[:, :, 1] = 44  # an entry at its mean, such as a constant one
    mean, scale, linear = encoder.mean.double().numpy(), encoder.scale.double().numpy(), encoder.linear
    weight, bias = linear.weight.detach().double().numpy(), linear.bias.detach().double().numpy()
    gradient, drops = gradient_times_input(model, batch), entry_occlusion(model, batch, batch_size=3)
    newest = entry_occlusion(model, batch, last_steps=1)
    for context, length in enumerate(lengths):
        action = int(batch.actions[context, length - 1])
        for step in range(length):
            normalized = (batch.states[context, step].double().numpy() - mean) / scale
            token, coefficients = np.tanh(weight @ normalized + bias), planted[step, action].double().numpy()
            slope = coefficients * (1 - token**2)
            for entry, value in enumerate(normalized):
                part = weight[:, entry] * value
                covered = np.tanh(weight @ normalized + bias - part)
                assert gradient[context, step, entry] == pytest.approx(slope @ part, abs=1e-4)
                assert drops[context, step, entry] == pytest.approx(coefficients @ (token - covered), abs=1e-4)
        assert newest[context, length - 1] == pytest.approx(drops[context, length - 1], abs=1e-5)
        assert (newest[context, : length - 1] == 0).all()
        assert (gradient[context, length:] == 0).all()
        assert (drops[context, length:] == 0).all()
    assert (gradient[:, :, 1] == 0).all()
    assert drops[:, :, 1].abs().max() < 1e-5


@pytest.mark.parametrize("explain", ["score", "advantage"])
def test_saliency_of_a_transformer_matches_changed_entries(explain: Explained) -> None:
    model = vector_model("variables", VARIABLES, encoder_norm=True)
    batch = contexts([3, 2], len(VARIABLES))
    gradient = gradient_times_input(model, batch, explain)
    drops = entry_occlusion(model, batch, explain=explain)
    assert gradient.shape == drops.shape == (2, K, len(VARIABLES))
    mean = model.state_encoder.mean
    assert isinstance(mean, Tensor)
    for context, length in enumerate([3, 2]):
        states = batch.states[context].float()
        unchanged = last_score(model, batch, context, states, explain)
        for step, entry in np.ndindex(length, len(VARIABLES)):
            changed = [states.clone() for _ in range(3)]
            changed[0][step, entry] = mean[entry]
            changed[1][step, entry] += 0.5
            changed[2][step, entry] -= 0.5
            replaced, above, below = (last_score(model, batch, context, each, explain) for each in changed)
            expected = float(states[step, entry] - mean[entry]) * (above - below)
            assert gradient[context, step, entry] == pytest.approx(expected, rel=0.02, abs=3e-4)
            assert drops[context, step, entry] == pytest.approx(unchanged - replaced, abs=1e-5)
    assert drops.abs().max() > 0.05


def test_entries_rank_by_what_they_raise_and_lower() -> None:
    saliency = np.array([[1, -5, 0.5, 0], [1, 5, -3, 0]], dtype=np.float32)
    assert top_entries(saliency, 3).tolist() == [1, 2, 0]
    assert len(top_entries(saliency, 9)) == 4
    raised, lowered = raised_and_lowered(saliency)
    assert (raised.tolist(), lowered.tolist()) == ([2, 5, 0.5, 0], [0, 5, 3, 0])


def test_names_of_bytes_say_which_variable_they_hold() -> None:
    names = name_entries(RAM, "Breakout")
    assert (len(names), names[99], names[98]) == (128, "RAM 99 (ball_x)", "RAM 98")
    assert name_entries(RAM, "BeamRider")[99] == "RAM 99"  # a game without a table
    assert name_entries(find_observation("variables", VARIABLES, "Breakout"), "Breakout") == VARIABLES
    assert name_entries(FRAMES, "Breakout") == ()


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> TracedEvaluation:
    run = vector_run(tmp_path_factory.mktemp("vectors"), "ram")
    return trace_episodes(run, PlayConfig(episodes=2, max_steps=9, seed=5), show_progress=False)


def test_traces_hold_the_ram_and_the_frames_of_an_evaluation(traced: TracedEvaluation) -> None:
    play = PlayConfig(episodes=2, max_steps=9, seed=5)
    (result,) = evaluate(traced.model, [traced.target_return], play, show_progress=False)
    for episode, evaluated, seed in zip(traced.episodes, result.episodes, result.emulator_seeds, strict=True):
        assert np.array_equal(episode.actions, evaluated.actions)
        env = PythonVectorEnv(find_game("Breakout"), 1, traced.environment)  # of frames
        states = env.reset(np.array([seed]))
        for step, action in enumerate(episode.actions):
            assert np.array_equal(episode.frames[step], states[0, -1])
            assert np.array_equal(episode.states[step], env.ram[0])
            states, _, _ = env.step(np.array([action]))
        assert len(np.unique(episode.frames.reshape(9, -1), axis=0)) > 3


def expected_shares(traced: TracedEvaluation) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Compute each full context's shares of the absolute gradient × input, ``[N, K, D]``."""
    shares = []
    for episode in traced.episodes:
        for step in range(K - 1, len(episode)):
            saliency = gradient_times_input(traced.model, episode.batch(np.array([step]), torch.device("cpu")))[0]
            shares.append((saliency.abs() / saliency.abs().sum()).double().numpy())
    return np.array(shares)


def test_attention_of_a_model_of_ram(traced: TracedEvaluation, tmp_path: Path) -> None:
    table = visualize(tmp_path / "out", traced, VisualizationConfig(occlusion=True), show_progress=False)
    files = {path.name: path for path in (tmp_path / "out").iterdir()}
    assert set(files) == {"attention.png", "attention_distance.png", "attention.mp4", "attention.json", "viewer.html"}
    numbers = json.loads(files["attention.json"].read_text())
    shares = expected_shares(traced).mean(0)
    assert numbers["saliency_by_step_newest_first"] == pytest.approx(shares.sum(1)[::-1], rel=1e-3)
    by_entry = dict(zip(name_entries(RAM, "Breakout"), shares.sum(0), strict=True))
    assert numbers["saliency_by_entry"] == pytest.approx(by_entry, rel=1e-3)
    assert "saliency_by_frame_newest_first" not in numbers
    lines = table.splitlines()
    largest = sorted(by_entry, key=lambda name: -by_entry[name])[:10]
    start = next(i for i, line in enumerate(lines) if "share of the saliency" in line) + 1
    assert [line.split("  ")[-1].strip() for line in lines[start : start + 10]] == [
        f"{by_entry[name]:.1%}" for name in largest
    ]
    assert [line.strip().startswith(name) for line, name in zip(lines[start:], largest, strict=False)] == [True] * 10
    assert f"The newest state holds {shares[-1].sum():.1%} of it." in table
    with Image.open(files["attention.png"]) as image:
        image.load()
    with av.open(str(files["attention.mp4"])) as video:
        assert len(list(video.decode(video=0))) == 9


def test_saliency_of_a_model_of_variables(tmp_path: Path) -> None:
    run = vector_run(tmp_path, "variables", VARIABLES)
    traced = trace_episodes(run, PlayConfig(episodes=1, max_steps=5), show_progress=False)
    (episode,) = traced.episodes
    assert episode.states.shape == (5, 4)
    table = visualize_saliency(tmp_path / "out", traced, SaliencyConfig(video=False), show_progress=False)
    numbers = json.loads((tmp_path / "out" / "saliency.json").read_text())
    shares = expected_shares(traced).mean(0).sum(0)
    assert numbers["saliency_by_entry"] == pytest.approx(dict(zip(VARIABLES, shares, strict=True)), rel=1e-3)
    assert len(table.splitlines()) == 1 + len(VARIABLES) + 2
    assert "(entries that raise and lower the logit of the actions taken)" in table


def test_patch_is_refused_before_a_model_of_vectors_plays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = vector_run(tmp_path, "ram")
    monkeypatch.setattr(saliency_visualization, "trace_episodes", None)
    with pytest.raises(InputError, match="`patch` has no effect on a model that observes ram; leave it out"):
        saliency_visualization.play_and_visualize_saliency(run, tmp_path / "out", SaliencyConfig(patch=6), PlayConfig())
    assert not (tmp_path / "out").exists()


def test_a_planning_model_is_sent_to_its_own_page() -> None:
    for config in (SaliencyConfig(), VisualizationConfig()):
        with pytest.raises(InputError, match=r"Trajectory Transformer reads tokens, .* scripts/visualize_plans\.py"):
            config.check(default_config("trajectory_transformer"))


def test_pictures_show_plain_frames_and_bars_of_the_top_entries(traced: TracedEvaluation) -> None:
    episode = traced.episodes[0]
    saliency = np.zeros((K, 128), dtype=np.float32)
    saliency[0, 7], saliency[2, 7], saliency[1, 90] = 4, -2, -3
    picture = video_frame(StepView(traced, episode, 6, np.full((K, 3), 1, np.float32), "", saliency, "the logit"))
    left, top = 320 + 24, 66
    for cell in range(K):  # twice as large as in a long strip
        frame = episode.frames[6 - (K - 1 - cell)].repeat(2, axis=0).repeat(2, axis=1)
        x = left + cell * (168 + 8)
        assert (picture[top : top + 168, x : x + 168] == frame[..., None]).all()
    list_top = top + 168 + 60 + 16 + 8 + 2 * 18 + 8
    for row, raised, lowered in ((1, 4, 2), (2, 0, 3)):
        line = picture[list_top + 18 * row + 6, left:]
        for color, expected in ((POSITIVE_COLOR, raised), (NEGATIVE_COLOR, lowered)):
            width = (line == list(bytes.fromhex(color[1:]))).all(-1).sum()
            assert width == pytest.approx(70 * expected / 4, abs=1.5)


def test_predictions_are_those_of_the_heads_in_bytes(traced: TracedEvaluation) -> None:
    model, episode = traced.model, traced.episodes[1]
    assert isinstance(model, DecisionTransformer)
    states, returns = predict_next(model, episode)
    assert states is not None
    assert returns is not None
    mean, scale = (getattr(model.state_encoder, name).numpy() for name in ("mean", "scale"))
    for step in range(9):
        window = slice(max(0, step - K + 1), step + 1)
        batch = episode.batch(np.array([step]), torch.device("cpu"))
        steps = window.stop - window.start
        with torch.inference_mode():
            output = model(
                torch.from_numpy(episode.states[window])[None],
                torch.from_numpy(episode.actions[window])[None],
                batch.returns_to_go[:, :steps],
                batch.timesteps[:, :steps],
            )
        assert states[step] == pytest.approx(output.state_predictions[0, -1].numpy() * scale + mean, abs=1e-3)
        assert returns[step] == pytest.approx(float(output.return_predictions[0, -1]), abs=1e-4)


def test_a_model_without_heads_predicts_nothing() -> None:
    model = vector_model("variables", VARIABLES)
    object.__setattr__(model.config, "predict", ())
    episode: EpisodeTrace = SimpleNamespace()  # type: ignore[assignment]
    assert predict_next(model, episode) == (None, None)
