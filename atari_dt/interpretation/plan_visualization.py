"""Visualize the futures that a Trajectory Transformer imagines while it plans: a page, a figure and numbers."""

from __future__ import annotations

import base64
import dataclasses
import html
import io
import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from atari_dt.evaluation.evaluator import evaluate_policy, make_dataset_env
from atari_dt.evaluation.play_config import PlayConfig
from atari_dt.games.catalogue import find_game
from atari_dt.hardware import find_device, translate_out_of_memory
from atari_dt.interpretation.episode_trace import Ints, format_number
from atari_dt.interpretation.imagined_futures import (
    PlayedEpisode,
    PredictionErrors,
    errors_figure,
    most_changing_entries,
    open_loop_errors,
)
from atari_dt.methods.registry import load_model
from atari_dt.model.pretrained import latest_checkpoint
from atari_dt.model.trajectory_transformer import TrajectoryTransformer
from atari_dt.policies.beam_search import Plans
from atari_dt.policies.policy import Floats
from atari_dt.policies.trajectory_transformer import TrajectoryTransformerPolicy
from atari_dt.rendering.tables import align_columns
from atari_dt.rendering.video import STEPS_PER_SECOND, screens
from replay_data import InputError
from replay_data.storage.atomic import atomic_directory
from replay_data.storage.paths import check_new_directory


@dataclass(frozen=True)
class PlannedEpisode:
    """An episode of T steps, with the plan of each.

    Attributes:
        model: Model that planned.
        checkpoint: Directory of its checkpoint.
        play: How it played.
        played: States, actions and rewards.
        plans: Best plan of each step, with T in the place of M.
        screens: Screen before each action as the content of a PNG file.
        score: Score at the end, in points.
    """

    model: TrajectoryTransformer
    checkpoint: Path
    play: PlayConfig
    played: PlayedEpisode
    plans: Plans
    screens: tuple[bytes, ...]
    score: float

    @property
    def title(self) -> str:
        """Title of the page and of the figure."""
        return f"{find_game(self.model.require_dataset().game).name}: imagined futures"


class _PlanRecorder:
    """Policy of one environment that records states and plans of another policy."""

    def __init__(self, policy: TrajectoryTransformerPolicy):
        self._policy = policy
        self.states: list[npt.NDArray[np.uint8]] = []
        self.plans: list[Plans] = []

    @property
    def returns_to_go(self) -> Floats:
        return self._policy.returns_to_go

    def start(self, env_indices: Ints, target_returns: Floats, seeds: Ints) -> None:
        self._policy.start(env_indices, target_returns, seeds)

    def act(self, env_indices: Ints, states: npt.NDArray[np.uint8], rewards: Floats) -> Ints:
        actions = self._policy.act(env_indices, states, rewards)
        assert self._policy.last_plan is not None
        self.states.append(states[0].copy())
        self.plans.append(self._policy.last_plan)
        return actions


def play_and_visualize_plans(run_directory: Path, out: Path, play: PlayConfig) -> str:
    """Play an episode with a Trajectory Transformer that plans, and visualize the futures that it imagines.

    Args:
        run_directory: Run directory or checkpoint.
        out: Directory to create; see `visualize_plans`.
        play: How the model plays; ``play.episodes`` must be 1.

    Returns:
        A table of the errors.

    Raises:
        InputError: If the model does not plan, or another reason of `play_with_plans`.
        OSError: If a file cannot be written.
    """
    check_new_directory(out)
    return visualize_plans(out, play_with_plans(run_directory, play))


def play_with_plans(run_directory: Path, play: PlayConfig, show_progress: bool = True) -> PlannedEpisode:
    """Play the first episode of an evaluation with the same seed, and keep its plans.

    Args:
        run_directory: Run directory or checkpoint.
        play: How the model plays; ``play.episodes`` must be 1.
        show_progress: Whether to show a progress bar on standard error.

    Raises:
        InputError: If the model does not plan, the run, ROM or device does not exist, or a setting does not fit the
            model.
    """
    device = find_device(play.device)
    checkpoint = latest_checkpoint(run_directory)
    model = load_model(checkpoint).to(device).eval()
    if not isinstance(model, TrajectoryTransformer):
        raise InputError(f"{checkpoint} holds a model of {model.config.title}, which imagines no futures")
    if play.planning.planner == "none":
        raise InputError("`planner` is none, so there are no plans to show; set it to beam")
    if play.episodes != 1:
        raise InputError(f"`episodes` must be 1, the number of episodes on the page, not {play.episodes}")
    dataset, planning = model.require_dataset(), play.planning
    if play.max_steps <= planning.context + planning.horizon:
        raise InputError(
            f"`max_steps` must be more than {planning.context + planning.horizon}, the steps of context and horizon"
        )
    policy = _PlanRecorder(TrajectoryTransformerPolicy(model, 1, play.protocol, play.sampling, planning))
    with translate_out_of_memory(device, "`beam_width`"):
        environment = play.environment(dataset)
        env = make_dataset_env(dataset, 1, environment, model.observation)
        (result,) = evaluate_policy(policy, env, [0.0], 1, dataset.reward_clipping, play.seed, show_progress)
    episode = result.episodes[0]
    pictures, scores = [], []
    for screen, *_, score in screens(env.game, environment, int(result.emulator_seeds[0]), episode.actions):
        pictures.append(_to_png(screen))
        scores.append(score)
    points = np.diff(scores)
    rewards = points.clip(-1, 1) if dataset.reward_clipping else points
    return PlannedEpisode(
        model,
        checkpoint,
        play,
        PlayedEpisode(np.stack(policy.states), np.array(episode.actions, dtype=np.int64), rewards.astype(np.float32)),
        Plans(
            *(np.concatenate(column) for column in zip(*(vars(plan).values() for plan in policy.plans), strict=True))
        ),
        tuple(pictures[:-1]),
        float(result.scores[0]),
    )


def visualize_plans(out: Path, episode: PlannedEpisode) -> str:
    """Write a directory of a web page, a figure and numbers, atomically.

    - ``plans.html``: the plans step by step, beside the screen and what came.
    - ``plans.png``: open-loop prediction error over the horizon, and error of the discretization.
    - ``plans.json``: the same numbers.

    Args:
        out: Directory to create.
        episode: Episode that was played with plans.

    Returns:
        A table of the errors.

    Raises:
        InputError: If the episode is too short for the context and the horizon.
        OSError: If a file cannot be written.
    """
    planning = episode.play.planning
    errors = open_loop_errors(episode.model, [episode.played], planning.horizon, planning.context)
    numbers = {
        "game": find_game(episode.model.require_dataset().game).name,
        "run": str(episode.checkpoint),
        "seed": episode.play.seed,
        "planning": dataclasses.asdict(planning),
        "score": episode.score,
        "steps": len(episode.played.actions),
        **errors.to_json(),
    }
    with atomic_directory(out) as directory:
        (directory / "plans.html").write_text(plans_page(episode, errors), encoding="utf-8")
        (directory / "plans.png").write_bytes(errors_figure(errors, episode.title))
        (directory / "plans.json").write_text(json.dumps(numbers, indent=2, allow_nan=False) + "\n")
    rows = [["entry", "discretized", "imagined +1", f"imagined +{errors.horizon}", f"unchanged +{errors.horizon}"]]
    for entry in most_changing_entries(errors):
        values = (
            errors.discretized[entry],
            errors.imagined[0, entry],
            errors.imagined[-1, entry],
            errors.unchanged[-1, entry],
        )
        rows.append([errors.names[entry], *(f"{value:.2f}" for value in values)])
    return f"{align_columns(rows)}\n\n(mean absolute errors in units of the RAM, {errors.num_predictions} predictions)"


def plans_page(episode: PlannedEpisode, errors: PredictionErrors) -> str:
    """Return the page of an episode's plans, with the data packed into it.

    Args:
        episode: Episode that was played with plans.
        errors: Errors of its open-loop predictions, which choose the entries with a chart.
    """
    planning, dataset = episode.play.planning, episode.model.require_dataset()
    num_steps = len(episode.played.actions)
    data: dict[str, Any] = {
        "about": (
            f"{episode.checkpoint}; score {format_number(episode.score)} in {num_steps} steps; beam width "
            f"{planning.beam_width}, horizon {planning.horizon}, context {planning.context}, seed {episode.play.seed}"
        ),
        "names": episode.model.observation.entry_names,
        "chartEntries": most_changing_entries(errors),
        "actionMeanings": dataset.action_meanings,
        "horizon": planning.horizon,
        "context": planning.context,
        "stepsPerSecond": STEPS_PER_SECOND,
        "firstStep": planning.context,
        "states": episode.played.states.tolist(),
        "actions": episode.played.actions.tolist(),
        "rewards": episode.played.rewards.tolist(),
        "plans": [
            {
                "observations": episode.plans.observations[step].round(1).tolist(),
                "actions": episode.plans.actions[step].tolist(),
                "rewards": episode.plans.rewards[step].tolist(),
                "values": episode.plans.values[step].tolist(),
            }
            for step in range(num_steps)
        ],
        "screens": [base64.b64encode(screen).decode() for screen in episode.screens],
    }
    template = resources.files(__package__).joinpath("plans.html").read_text(encoding="utf-8")
    # Escaping every "<" keeps the data from ending its own script element.
    embedded = json.dumps(data, allow_nan=False).replace("<", "\\u003c")
    return template.replace("{{title}}", html.escape(episode.title)).replace("{{data}}", embedded)


def _to_png(screen: npt.NDArray[np.uint8]) -> bytes:
    """Return a screen, which has few colors, as the content of a small PNG file."""
    content = io.BytesIO()
    Image.fromarray(screen).convert("P", palette=Image.Palette.ADAPTIVE, colors=64).save(content, format="png")
    return content.getvalue()
