"""Figures, video and numbers of a visualization."""

from __future__ import annotations

import json
import math
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from atari_dt.evaluation.play_config import PlayConfig
from atari_dt.interpretation.entry_list import NEGATIVE_COLOR, POSITIVE_COLOR
from atari_dt.interpretation.episode_trace import TracedEvaluation
from atari_dt.interpretation.saliency import gradient_times_input, sum_by_frame
from atari_dt.interpretation.step_view import TOKEN_COLORS, StepView, overlay, step_figure, video_frame
from atari_dt.interpretation.tracing import trace_episodes
from atari_dt.interpretation.visualization import visualize
from atari_dt.interpretation.visualization_config import VisualizationConfig
from replay_data import InputError
from tests.atari_dt.interpretation.test_viewer import K, run_directory


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> TracedEvaluation:
    return trace_episodes(
        run_directory(tmp_path_factory.mktemp("run")),
        PlayConfig(episodes=2, max_steps=30, seed=5),
        show_progress=False,
    )


def rgb(color: str) -> list[int]:
    return list(bytes.fromhex(color[1:]))


def test_visualize_writes_all_files_and_the_numbers_of_the_contexts(traced: TracedEvaluation, tmp_path: Path) -> None:
    table = visualize(
        tmp_path / "out", traced, VisualizationConfig(grid=True, occlusion=True, patch=42), show_progress=False
    )
    files = {path.name: path for path in (tmp_path / "out").iterdir()}
    pictures = {"attention.png", "attention_distance.png", "attention_heads.png"}
    assert set(files) == {*pictures, "attention.mp4", "attention.json", "viewer.html"}
    for name in pictures:
        with Image.open(files[name]) as image:
            assert min(image.size) > 200
            image.load()
    assert '"occlusion"' in files["viewer.html"].read_text(encoding="utf-8")

    numbers = json.loads(files["attention.json"].read_text())
    contexts = [episode.attention[t] for episode in traced.episodes for t in range(K - 1, len(episode))]
    assert numbers["num_contexts"] == len(contexts) == 2 * (30 - K + 1)
    assert numbers["format_version"] == 2
    assert numbers["token_types"] == ["return", "state", "action"]
    weights = numbers["attention_by_layer_head_distance_token_type"]
    for layer, head in np.ndindex(2, 2):
        entropy = [-sum(p * math.log(p) for p in each[layer, head].flatten() if p > 0) for each in contexts]
        assert numbers["entropy_by_layer_head"][layer][head] == pytest.approx(np.mean(entropy), rel=1e-4)
        for distance, token_type in np.ndindex(K, 3):
            mean = np.mean([each[layer, head, K - 1 - distance, token_type] for each in contexts])
            assert weights[layer][head][distance][token_type] == pytest.approx(mean, rel=1e-4)
    shares = []
    for episode in traced.episodes:
        for t in range(K - 1, len(episode)):
            gradient = gradient_times_input(traced.model, episode.batch(np.array([t]), torch.device("cpu")))[0]
            cells = sum_by_frame(gradient).numpy().reshape(K + 3, 14, 6, 14, 6).sum((2, 4))
            shares.append(np.abs(cells).sum((1, 2)) / np.abs(cells).sum())
    assert numbers["saliency_by_frame_newest_first"] == pytest.approx(np.mean(shares, axis=0)[::-1], rel=1e-3)
    lines = table.splitlines()
    assert len(lines) == 1 + 2 + 1 + 4
    differs = [
        probabilities[0].argmax() != probabilities[-1].argmax()
        for episode in traced.episodes
        for probabilities in episode.preferences
    ]
    assert numbers["greedy_action_differs"] == pytest.approx(np.mean(differs))
    assert 0 < np.mean(differs) < 1
    assert f"the most likely action differs in {np.mean(differs):.1%} of the steps" in lines[-2]
    assert f"{np.mean(numbers['entropy_by_layer_head'][1]):.2f} " in lines[2]
    assert lines[3].split() == ["uniform", "attention", "2.40", "1.6", "18.2%", "36.4%", "36.4%", "27.3%"]

    best = traced.episodes[int(traced.result.scores.argmax())]
    with av.open(str(files["attention.mp4"])) as video:
        frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    assert len(frames) == len(best)
    for t in (0, len(best) - 1):
        screen = best.palette[best.screens[t]].repeat(2, axis=0).repeat(2, axis=1).astype(int)
        assert np.abs(frames[t][8 : 8 + 420, 8 : 8 + 320] - screen).mean() < 8  # loss of the codec


def test_strip_places_frames_bars_and_saliency(traced: TracedEvaluation) -> None:
    episode = traced.episodes[0]
    weights = np.zeros((K, 3), dtype=np.float32)
    weights[1, 2] = 1  # all attention on the action two steps back
    saliency = np.zeros((K + 3, 14, 14), dtype=np.float32)
    saliency[2, 5, 5] = 1  # in the newest of the three lead-in frames
    for picture, scale in (
        (np.asarray(step_figure(StepView(traced, episode, 20, weights, "planted", saliency, "the logit"), {})), 2),
        (video_frame(StepView(traced, episode, 20, weights, "planted", saliency, "the logit")), 1),
    ):
        left, top = (8 * scale, 66 * scale) if scale == 2 else (320 + 24, 66)
        for cell in range(K + 3):
            x = left + cell * 92 * scale
            frame = episode.states[20 - (K + 2 - cell), 3].repeat(scale, axis=0).repeat(scale, axis=1)
            change = picture[top : top + 84 * scale, x : x + 84 * scale].astype(int) - frame[..., None]
            assert change.any() == (cell == 2)
            if cell == 2:
                lines, columns, _ = change.nonzero()
                assert [lines.mean() / scale, columns.mean() / scale] == pytest.approx([33, 33], abs=1)
        strip = picture[top + 84 * scale : top + 144 * scale - 2 * scale]
        lines, columns = np.nonzero((strip == rgb(TOKEN_COLORS["action"])).all(-1))
        assert left + 4 * 92 * scale <= columns.min() < columns.max() < left + (4 * 92 + 84) * scale
        assert len(set(lines)) == pytest.approx(42 * scale, abs=2 * scale)  # the height of the tallest bar
        assert not (strip == rgb(TOKEN_COLORS["return"])).all(-1).any()


def test_overlay_blends_saliency_into_the_frame() -> None:
    frame = np.arange(84 * 84, dtype=np.uint8).reshape(84, 84)
    cells = np.zeros((14, 14), dtype=np.float32)
    assert np.array_equal(overlay(frame, cells, 0.0), np.repeat(frame[..., None], 3, axis=-1))
    cells[:, :7], cells[:, 7:] = 0.5, -1.0
    picture = overlay(np.full((84, 84), 100, np.uint8), cells, 1.0)
    for column, color, strength in ((3, POSITIVE_COLOR, 0.5), (80, NEGATIVE_COLOR, 1.0)):
        expected = 100 * (1 - 0.85 * strength) + 0.85 * strength * np.array(rgb(color))
        assert picture[40, column] == pytest.approx(expected, abs=1)


def test_layer_and_head_select_the_weights(traced: TracedEvaluation) -> None:
    episode = traced.episodes[1]
    for layer, head, expected in (
        ("mean", "mean", episode.attention.reshape(30, 4, K, 3).mean(1)),
        ("rollout", "mean", episode.rollout),
        ("1", "mean", (episode.attention[:, 0, 0] + episode.attention[:, 0, 1]) / 2),
        ("1", "2", episode.attention[:, 0, 1]),
        ("2", "1", episode.attention[:, 1, 0]),
    ):
        weights, name = VisualizationConfig(layer=layer, head=head).weights(episode)
        assert weights == pytest.approx(expected, abs=1e-6)
        assert head == "mean" or f"layer {layer}, head {head}" in name


def test_step_layer_and_head_change_the_figure(traced: TracedEvaluation, tmp_path: Path) -> None:
    pictures = set()
    for i, config in enumerate(
        (
            VisualizationConfig(video=False),
            VisualizationConfig(7, video=False),
            VisualizationConfig(7, layer="1", head="2", video=False),
        )
    ):
        visualize(tmp_path / str(i), traced, config, show_progress=False)
        pictures.add((tmp_path / str(i) / "attention.png").read_bytes())
        assert not (tmp_path / str(i) / "attention.mp4").exists()
    assert len(pictures) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"step": 30}, "`step` must be between 0 and 29"),
        ({"step": -1}, "`step` must be between 0 and 29"),
        ({"layer": "3"}, "`layer` must be at most 2, the model's number of layers, not 3"),
        ({"layer": "1", "head": "3"}, "`head` must be at most 2, the model's number of heads, not 3"),
        ({"layer": "0"}, "`layer` must be mean, rollout or a number from 1, not '0'"),
        ({"layer": "²"}, "`layer` must be mean, rollout or a number from 1"),
        ({"layer": "1", "head": "all"}, "`head` must be mean or a number from 1, not 'all'"),
        ({"head": "1"}, "`head` is 1, so `layer` must be a number from 1, not mean"),
        ({"patch": 5}, "`patch` must be a divisor of 84"),
    ],
)
def test_invalid_config_raises_and_writes_nothing(
    traced: TracedEvaluation, tmp_path: Path, options: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        visualize(tmp_path / "out", traced, VisualizationConfig(**options), show_progress=False)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []
