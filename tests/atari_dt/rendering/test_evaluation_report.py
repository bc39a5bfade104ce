"""Videos and tables of evaluations, read back by other means than they were written with."""

from __future__ import annotations

import io
from pathlib import Path

import av
import cv2
import numpy as np
from PIL import Image

from atari_dt.config import ModelConfig
from atari_dt.environment.config import EnvironmentConfig
from atari_dt.environment.python_env import AleEnv
from atari_dt.evaluation.play_config import PlayConfig
from atari_dt.evaluation.results import EvaluatedEpisode
from atari_dt.evaluation.run_evaluation import evaluate_runs
from atari_dt.games.catalogue import find_game
from atari_dt.model.dataset_info import DatasetInfo
from atari_dt.model.decision_transformer import DecisionTransformer
from atari_dt.rendering.tables import evaluation_table
from atari_dt.rendering.video import STEPS_PER_SECOND, Preview, replay, write_video


def test_video_shows_the_episode(tmp_path: Path) -> None:
    game, config, steps = find_game("Seaquest"), EnvironmentConfig.with_max_steps(260, sticky_actions=0.0), 260
    rng = np.random.default_rng(0)
    emulator = AleEnv(game, config, 7)
    actions = rng.integers(emulator.num_actions, size=steps)
    screens = [emulator.screen]
    for action in actions:
        emulator.step(int(action))
        screens.append(emulator.screen)
    assert emulator.done
    episode = EvaluatedEpisode(actions.astype(np.uint8), np.zeros(steps, np.float32))
    meanings = tuple(f"ACTION{i}" for i in range(emulator.num_actions))
    pictures = list(replay(game, config, 7, episode, meanings))
    assert len(pictures) == steps + 1
    for picture, screen in zip(pictures, screens, strict=True):
        assert np.array_equal(picture[: 2 * len(screen) : 2, ::2], screen)
    panels = {picture[2 * len(screens[0]) :].tobytes() for picture in pictures}
    assert len(panels) == steps + 1  # at least the step differs

    preview = Preview()
    write_video(tmp_path / "a.mp4", preview.watch(pictures))
    gif = Image.open(io.BytesIO(preview.gif()))
    assert 2 * gif.size[0] == pictures[0].shape[1]
    assert 100 < getattr(gif, "n_frames", 0) <= 200
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.pix_fmt == "yuv420p"
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        assert container.duration is not None
        assert abs(container.duration / 1e6 - (steps + 1) / STEPS_PER_SECOND) < 0.1
    assert len(frames) == steps + 1
    small = [cv2.resize(picture, (40, 60), interpolation=cv2.INTER_AREA) for picture in (frames[200], pictures[200])]
    assert np.abs(small[0].astype(int) - small[1]).mean() < 3


def test_table_normalizes_scores_with_the_constants_of_each_column(tmp_path: Path) -> None:
    """Alien is one of the 57 games, but not in the paper."""
    model = DecisionTransformer(ModelConfig(2, 1, 2, 16), num_actions=18, max_timestep=100)
    meanings = tuple(action.name for action in AleEnv(find_game("Alien"), EnvironmentConfig(), 0)._actions)
    model.dataset = DatasetInfo("Alien", meanings, True, 0.25, None)
    model.save_pretrained(tmp_path / "run")
    evaluation = evaluate_runs(
        [tmp_path / "run"],
        PlayConfig(episodes=2, max_steps=40, device="cpu"),
        target_returns=[3.0],
        show_progress=False,
    )
    header, first, *_ = evaluation_table(evaluation).splitlines()
    assert "human %" in header
    assert "paper" not in evaluation_table(evaluation)
    mean = np.mean([result.scores for results in evaluation.results for result in results])
    assert f"{100 * (mean - 227.8) / (7127.7 - 227.8):.1f}" in first.split()
