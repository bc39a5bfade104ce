"""Errors of imagined futures against forward passes of the whole network, and the page of a played episode."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from atari_dt.evaluation.evaluator import evaluate
from atari_dt.evaluation.play_config import PlayConfig
from atari_dt.interpretation.imagined_futures import PlayedEpisode, open_loop_errors
from atari_dt.interpretation.plan_visualization import play_and_visualize_plans
from atari_dt.policies.planning_config import PlanningConfig
from replay_data import InputError
from tests.atari_dt.models import small_model
from tests.atari_dt.trajectory_models import NUM_ACTIONS, VARIABLES, small_trajectory_transformer

PLAY = PlayConfig(planning=PlanningConfig(beam_width=2, horizon=3, context=2), episodes=1, max_steps=10, device="cpu")


@torch.no_grad()
def test_errors_are_those_of_the_most_likely_tokens_under_the_played_actions() -> None:
    network, rng, context, horizon = small_trajectory_transformer(7), np.random.default_rng(3), 2, 4
    episodes = [
        PlayedEpisode(
            rng.integers(0, 256, (length, len(VARIABLES)), dtype=np.uint8),
            rng.integers(NUM_ACTIONS, size=length),
            rng.integers(-1, 2, length).astype(np.float32),
        )
        for length in (9, 6, 8)  # windows of 7 steps: three, none and two of them
    ]
    errors = open_loop_errors(network, episodes, horizon, context)
    imagined, unchanged = [], []
    for episode in episodes:
        for now in range(context, len(episode.actions) - horizon):
            past = slice(now - context, now + 1)
            states, actions, rewards = (torch.from_numpy(each[past])[None] for each in episode)
            tokens = network.encode_steps(states, actions, rewards, torch.zeros(1, context + 1))[0, :-3].tolist()
            for step in range(horizon):
                tokens.append(int(episode.actions[now + step]))
                for _ in range(2 + len(VARIABLES)):
                    tokens.append(int(network(torch.tensor([tokens]))[0, -1].argmax()))
                observation = network.decode_observations(torch.tensor(tokens[-len(VARIABLES) :])).numpy()
                came = episode.states[now + step + 1].astype(float)
                imagined.append(np.abs(observation - came))
                unchanged.append(np.abs(episode.states[now] - came))
    assert errors.num_predictions == len(imagined) // horizon == 5
    shape = 5, horizon, len(VARIABLES)
    np.testing.assert_allclose(errors.imagined, np.reshape(imagined, shape).mean(0), rtol=1e-5)
    np.testing.assert_allclose(errors.unchanged, np.reshape(unchanged, shape).mean(0), rtol=1e-5)
    all_states = np.concatenate([episode.states for episode in episodes])
    means = network.discretizer.means.numpy()
    bounds = network.discretizer.bounds.numpy()
    for entry, error in enumerate(errors.discretized):
        stands_for = means[entry][(all_states[:, entry, None] >= bounds[entry]).sum(1)]
        assert error == pytest.approx(np.abs(stands_for - all_states[:, entry]).mean(), rel=1e-5)
    with pytest.raises(InputError, match="need an episode of at least 7 steps; all are shorter"):
        open_loop_errors(network, episodes[1:2], horizon, context)


def test_the_page_shows_the_plans_of_an_evaluated_episode(tmp_path: Path) -> None:
    network = small_trajectory_transformer()
    network.save_pretrained(tmp_path / "model")
    table = play_and_visualize_plans(tmp_path / "model", tmp_path / "out", PLAY)
    assert all(name in table for name in VARIABLES)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["plans.html", "plans.json", "plans.png"]
    assert (tmp_path / "out" / "plans.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "out" / "plans.html").read_text()
    found = re.search(r'<script id="data" type="application/json">(.*?)</script>', page)
    assert found is not None
    data: dict[str, Any] = json.loads(found[1])
    (result,) = evaluate(network, [0.0], PLAY, num_envs=1, show_progress=False)
    actions = result.episodes[0].actions
    assert data["actions"] == list(actions)
    assert [plan["actions"][0] for plan in data["plans"]] == list(actions)
    assert [len(plan["observations"]) for plan in data["plans"]] == [3] * 10
    assert len(data["screens"]) == len(data["states"]) == len(data["rewards"]) == 10
    numbers = json.loads((tmp_path / "out" / "plans.json").read_text())
    assert list(numbers["mean_absolute_errors"]) == list(VARIABLES)
    assert numbers["num_predictions"] == 10 - 2 - 3


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"planning": PlanningConfig(planner="none")}, "`planner` is none, so there are no plans to show"),
        ({"episodes": 2}, "`episodes` must be 1, the number of episodes on the page, not 2"),
        ({"max_steps": 5}, "`max_steps` must be more than 5, the steps of context and horizon"),
    ],
)
def test_settings_without_a_page_are_refused(tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    small_trajectory_transformer().save_pretrained(tmp_path / "model")
    with pytest.raises(InputError, match=sentence):
        play_and_visualize_plans(tmp_path / "model", tmp_path / "out", dataclasses.replace(PLAY, **changes))
    assert not (tmp_path / "out").exists()


def test_a_model_that_does_not_plan_has_no_page(tmp_path: Path) -> None:
    small_model().save_pretrained(tmp_path / "model")
    with pytest.raises(InputError, match=r"holds a model of .*, which imagines no futures"):
        play_and_visualize_plans(tmp_path / "model", tmp_path / "out", PLAY)
