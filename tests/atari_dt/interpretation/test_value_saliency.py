"""Saliency of Q-networks: against closed forms and finite differences, and in the views of played episodes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from atari_dt.batches.contexts import ContextBatch
from atari_dt.evaluation.evaluator import evaluate
from atari_dt.evaluation.play_config import PlayConfig
from atari_dt.interpretation import saliency_visualization, visualization
from atari_dt.interpretation.entry_list import POSITIVE_COLOR
from atari_dt.interpretation.saliency import gradient_times_input, occlusion
from atari_dt.interpretation.saliency_visualization import visualize_saliency
from atari_dt.interpretation.step_view import TOKEN_COLORS, StepView, video_frame
from atari_dt.interpretation.tracing import trace_episodes
from atari_dt.interpretation.visualization_config import Explained, SaliencyConfig, VisualizationConfig
from atari_dt.methods.registry import load_model
from atari_dt.model.q_network import QNetwork
from atari_dt.policies.sampling import Sampling
from replay_data import InputError
from tests.atari_dt.interpretation.q_runs import q_run, small_q_network
from tests.atari_dt.interpretation.test_viewer import run_directory


def states_and_actions(num_states: int, actions: list[int]) -> ContextBatch:
    """Return contexts of one step of random pixels."""
    states = torch.randint(0, 256, (num_states, 1, 4, 84, 84), dtype=torch.uint8)
    zeros = torch.zeros(num_states, 1, dtype=torch.int64)
    return ContextBatch(states, torch.tensor(actions)[:, None], zeros.float(), zeros, zeros == 0)


def value(model: QNetwork, state: Tensor, action: int, explain: Explained) -> float:
    """Compute Q or the advantage of an action with the mean of the network's estimates."""
    with torch.no_grad():
        q_values = model(state[None].float())[0].double().numpy().mean(-1)
    return float(q_values[action] - (q_values.mean() if explain == "advantage" else 0))


@pytest.mark.parametrize("explain", ["score", "advantage"])
@pytest.mark.parametrize("method", ["qrdqn", "rem"])
def test_gradient_matches_finite_differences_and_adds_up_to_q(
    method: str, explain: Explained, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Q of a network without biases is homogeneous, so gradient × input adds up to it (Euler's theorem)."""
    model = small_q_network(monkeypatch, method)
    batch = states_and_actions(3, [2, 0, 3])
    saliency = gradient_times_input(model, batch, explain)
    assert saliency.shape == (3, 1, 4, 84, 84)
    for index, action in enumerate([2, 0, 3]):
        state, maps = batch.states[index, 0], saliency[index, 0]
        expected = value(model, state, action, explain)
        assert maps.double().sum().item() == pytest.approx(expected, rel=1e-3)
        assert abs(expected) > 0.01
        for flat in maps.abs().flatten().topk(3).indices:
            pixel = np.unravel_index(int(flat), (4, 84, 84))
            changed = [state.float(), state.float()]
            changed[0][pixel] += 0.5
            changed[1][pixel] -= 0.5
            above, below = (value(model, each, action, explain) for each in changed)
            assert maps[pixel] == pytest.approx(float(state[pixel]) * (above - below), rel=0.05)


def test_saliency_finds_the_planted_pixel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Q of action 1 reads one pixel of one frame."""
    model = small_q_network(monkeypatch)
    frame, y, x = 2, 37, 21
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        encoder = model.encoder
        encoder.conv1.weight[0, frame, y % 8, x % 8] = 1
        encoder.conv2.weight[0, 0, 0, 0] = encoder.conv3.weight[0, 0, 0, 0] = 1
        model.hidden.weight[5, 7 * (y // 8) + x // 8] = 1
        model.head.weight.view(4, -1, 16)[1, :, 5] = torch.linspace(0, 2, 6)  # estimates with mean 1
    batch = states_and_actions(2, [1, 3])
    batch.states[:] = 0
    batch.states[:, 0, frame, y, x] = 153  # Q is 153 / 255
    gradient = gradient_times_input(model, batch)
    assert gradient.nonzero().tolist() == [[0, 0, frame, y, x]]
    assert gradient[0, 0, frame, y, x] == pytest.approx(0.6)
    drops = occlusion(model, batch, patch=12)
    assert drops.nonzero().tolist() == [[0, 0, frame, y // 12, x // 12]]
    assert drops[0, 0, frame, y // 12, x // 12] == pytest.approx(0.6)
    for maps in (gradient_times_input(model, batch, "advantage"), occlusion(model, batch, explain="advantage")):
        assert maps.flatten(1).sum(1).tolist() == pytest.approx([0.6 * 3 / 4, -0.6 / 4])
        assert len(maps.nonzero()) == 2


def test_traces_hold_q_and_the_actions_of_an_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = q_run(tmp_path, monkeypatch)
    play = PlayConfig(episodes=2, max_steps=12, seed=3)
    traced = trace_episodes(run, play, show_progress=False)
    model = load_model(traced.checkpoint)
    (result,) = evaluate(model, [0.0], play, show_progress=False)
    assert isinstance(model, QNetwork)
    for episode, evaluated in zip(traced.episodes, result.episodes, strict=True):
        assert np.array_equal(episode.actions, evaluated.actions)
        expected = [[value(model, torch.from_numpy(state), a, "score") for a in range(4)] for state in episode.states]
        assert episode.preferences[:, 0] == pytest.approx(np.array(expected), rel=1e-4)
        assert np.array_equal(episode.actions, episode.preferences[:, 0].argmax(-1))
        batch = episode.batch(np.arange(12), torch.device("cpu"))
        assert np.array_equal(batch.states[:, 0], episode.states)
        assert batch.attention_mask.all()
    with pytest.raises(InputError, match="`temperature` and `top_k` have no effect on CQL"):
        trace_episodes(run, PlayConfig(sampling=Sampling(temperature=0.5)))
    with pytest.raises(InputError, match=r"conservative Q-learning \(CQL\) has no target return; omit"):
        trace_episodes(run, play, target_return=3.0)


def test_files_show_the_saliency_of_the_best_episode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    traced = trace_episodes(q_run(tmp_path, monkeypatch), PlayConfig(episodes=1, max_steps=6), show_progress=False)
    table = visualize_saliency(tmp_path / "out", traced, SaliencyConfig(explain="advantage"), show_progress=False)
    files = {path.name: path for path in (tmp_path / "out").iterdir()}
    assert set(files) == {"saliency.png", "saliency.mp4", "saliency.json", "viewer.html"}
    numbers = json.loads(files["saliency.json"].read_text())
    (episode,) = traced.episodes
    maps = gradient_times_input(traced.model, episode.batch(np.arange(6), torch.device("cpu")), "advantage")[:, 0]
    cells = np.abs(maps.numpy().reshape(6, 4, 14, 6, 14, 6).sum((3, 5))).sum((2, 3))
    shares = (cells / cells.sum(1, keepdims=True)).mean(0)[::-1]
    assert numbers["saliency_by_frame_newest_first"] == pytest.approx(shares, rel=1e-3)
    assert {name: numbers[name] for name in ("format_version", "method", "explained", "target_return", "steps")} == {
        "format_version": 1,
        "method": "cql",
        "explained": "the advantage",
        "target_return": None,
        "steps": [6],
    }
    assert [line.split() for line in table.splitlines()[1:5]] == [
        [name, f"{share:.1%}"] for name, share in zip(("newest", "−1", "−2", "−3"), shares, strict=True)
    ]
    with Image.open(files["saliency.png"]) as image:
        image.load()
    with av.open(str(files["saliency.mp4"])) as video:
        assert len(list(video.decode(video=0))) == 6


def test_pictures_show_four_frames_and_the_differences_of_q(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    traced = trace_episodes(q_run(tmp_path, monkeypatch), PlayConfig(episodes=1, max_steps=6), show_progress=False)
    (episode,) = traced.episodes
    saliency = np.zeros((4, 14, 14), dtype=np.float32)
    saliency[1, 5, 5] = 1  # two steps back
    view = StepView(traced, episode, 4, np.zeros((1, 0), dtype=np.float32), "", saliency, "Q")
    picture = video_frame(view)
    left, top = 320 + 24, 66
    for cell in range(4):  # the frames are twice as large as in a long strip
        x = left + cell * (168 + 8)
        frame = episode.states[4 - (3 - cell), 3].repeat(2, axis=0).repeat(2, axis=1)
        change = picture[top : top + 168, x : x + 168].astype(int) - frame[..., None]
        assert change.any() == (cell == 1)
    assert (picture == list(bytes.fromhex(POSITIVE_COLOR[1:]))).all(-1).sum() >= 100  # its swatch in the legend
    q_values = episode.preferences[:, 0]
    spread = (q_values.max(-1) - q_values.min(-1)).max()
    expected = (q_values[4] - q_values[4].min()) / spread
    bars = (picture[top + 168 + 16 + 8 + 2 * 18 + 8 :] == list(bytes.fromhex(TOKEN_COLORS["state"][1:]))).all(-1)
    widths = [bars[18 * action + 6].sum() for action in range(4)]
    assert np.array(widths) / 240 == pytest.approx(expected, abs=0.01)


def test_saliency_of_a_decision_transformer_has_no_attention(tmp_path: Path) -> None:
    traced = trace_episodes(run_directory(tmp_path), PlayConfig(episodes=1, max_steps=5), show_progress=False)
    config = SaliencyConfig(video=False)
    assert "the logit" in visualize_saliency(tmp_path / "out", traced, config, show_progress=False)
    page = (tmp_path / "out" / "viewer.html").read_text(encoding="utf-8")
    assert '"tokenTypes": []' in page
    numbers: dict[str, Any] = json.loads((tmp_path / "out" / "saliency.json").read_text())
    assert (numbers["method"], numbers["target_return"]) == ("dt", 40.0)
    assert len(numbers["saliency_by_frame_newest_first"]) == 4 + 3


def test_attention_of_a_q_network_is_refused_before_it_plays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = q_run(tmp_path, monkeypatch)
    monkeypatch.setattr(visualization, "trace_episodes", None)
    with pytest.raises(InputError, match=r"\(CQL\) has no attention weights; .*scripts/visualize_saliency\.py"):
        visualization.play_and_visualize(run, tmp_path / "out", VisualizationConfig(), PlayConfig())
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="`step` must be between 0 and 2"):
        saliency_visualization.play_and_visualize_saliency(
            run, tmp_path / "out", SaliencyConfig(step=3), PlayConfig(episodes=1, max_steps=3)
        )
    assert not (tmp_path / "out").exists()
