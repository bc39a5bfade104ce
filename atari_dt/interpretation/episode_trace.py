"""Plays episodes and keeps what the model saw, attended to and would have done."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from atari_dt.config import Conditioning
from atari_dt.environment.config import FRAME_SKIP, EnvironmentConfig
from atari_dt.evaluation.evaluator import evaluate_policy, make_dataset_env
from atari_dt.evaluation.play_config import PlayConfig
from atari_dt.evaluation.policy import DecisionTransformerPolicy, Sampling
from atari_dt.evaluation.protocol import EvaluationProtocol
from atari_dt.evaluation.results import EvaluationResult
from atari_dt.evaluation.target_returns import compute_target_returns, require_dataset
from atari_dt.games.catalogue import Game, find_game
from atari_dt.hardware import find_device, translate_out_of_memory
from atari_dt.interpretation.attention import attention_from, attention_rollout, by_step_and_token_type, query_positions
from atari_dt.model.dataset_info import DatasetInfo
from atari_dt.model.decision_transformer import DecisionTransformer
from atari_dt.model.pretrained import latest_checkpoint
from atari_dt.rendering.video import Pixels, screens
from atari_dt.training.batches import ContextBatch
from replay_data import InputError

Floats = npt.NDArray[np.float32]

Ints = npt.NDArray[np.int64]

GRID_MULTIPLES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)


@dataclass(frozen=True)
class EpisodeTrace:
    """T steps of an episode. Contexts are those of `Decision`: left-aligned, meaningless behind the newest step.

    Attributes:
        states: uint8 ``[T, 4, 84, 84]``.
        actions: int64 ``[T]``.
        num_steps: int64 ``[T]``, how many of the K steps a context has.
        context_actions: int64 ``[T, K]``; the acting step's own action is among them.
        returns_to_go: float32 ``[T, K]``, as the model read them.
        timesteps: int64 ``[T, K]``, likewise.
        attention: float32 ``[T, layers, heads, K, kinds]``, from the acting token.
        rollout: float32 ``[T, K, kinds]`` (see `attention_rollout`).
        probabilities: float64 ``[T, R, num_actions]``, what the policy would have drawn from under each of R target
            returns with the same past; under the one that was played, what it did draw from.
        screens: uint8 ``[T, 210, 160]`` (higher in some games), in colors of the palette, as each action was chosen.
        palette: uint8 ``[P, 3]``, red, green and blue.
        scores: float64 ``[T + 1]``, the points until each action, and in the end.
    """

    states: npt.NDArray[np.uint8]
    actions: Ints
    num_steps: Ints
    context_actions: Ints
    returns_to_go: Floats
    timesteps: Ints
    attention: Floats
    rollout: Floats
    probabilities: npt.NDArray[np.float64]
    screens: npt.NDArray[np.uint8]
    palette: npt.NDArray[np.uint8]
    scores: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.actions)

    def batch(self, steps: Ints, device: torch.device) -> ContextBatch:
        """The contexts that some steps ``[B]`` were played from, as a batch on a device."""
        offsets = np.arange(self.context_actions.shape[1])
        rows = np.minimum(steps[:, None] - self.num_steps[steps, None] + 1 + offsets, steps[:, None])
        mask = offsets < self.num_steps[steps, None]
        of_steps = self.context_actions[steps], self.returns_to_go[steps], self.timesteps[steps]
        return ContextBatch(*(torch.from_numpy(array).to(device) for array in (self.states[rows], *of_steps, mask)))


@dataclass(frozen=True)
class TracedEvaluation:
    """Episodes that a model played under one target return.

    Attributes:
        model: that played.
        checkpoint: its directory.
        targets: float32 ``[R]``, the target returns that ``probabilities`` are for, ascending; one that means nothing
            in behavior cloning.
        played: which of them was played.
        result: scores, seeds and actions.
        episodes: what was kept of each.
        environment: how the game was played.
        conditions: how the model was, as text.
        seed: of the emulator, the no-ops and the action sampling.
    """

    model: DecisionTransformer
    checkpoint: Path
    targets: Floats
    played: int
    result: EvaluationResult
    episodes: tuple[EpisodeTrace, ...]
    environment: EnvironmentConfig
    conditions: str
    seed: int

    @property
    def dataset(self) -> DatasetInfo:
        """What the model was trained on."""
        return require_dataset(self.model)

    @property
    def game(self) -> Game:
        """What was played."""
        return find_game(self.dataset.game)

    @property
    def name(self) -> str:
        """The run and its checkpoint, as text."""
        parts = [part for part in self.checkpoint.absolute().parts if part not in ("checkpoints", "training")]
        return "/".join(parts[-2:])

    @property
    def conditioned(self) -> bool:
        """Whether the model has target returns."""
        return self.model.config.conditioning == "return"

    def cut_off(self, episode: EpisodeTrace) -> bool:
        """Whether an episode was ended by the limit of steps."""
        return len(episode) * FRAME_SKIP >= self.environment.max_frames

    def target_label(self, target: float) -> str:
        """A target return as text, with the multiple of the data's largest return that it is."""
        largest = self.dataset.max_return
        multiple = f" ({target / largest:.3g}×)" if largest is not None and largest > 0 else ""
        return f"{format_number(target)}{multiple}" if self.conditioned else "none (behavior cloning)"


def format_number(value: float) -> str:
    """A score or return as text: with the decimals that it has, at most two."""
    return f"{round(value, 2) + 0:.2f}".rstrip("0").rstrip(".")  # + 0: no "-0"


def trace_episodes(
    run_directory: Path,
    play: PlayConfig | None = None,
    *,
    return_multiple: float | None = None,
    target_return: float | None = None,
    show_progress: bool = True,
) -> TracedEvaluation:
    """Play episodes with a trained model and keep what it attended to.

    The episodes are those that an evaluation with the same seed plays; their logits differ in the last bits.

    Args:
        run_directory: Run directory or checkpoint.
        play: How the model plays; by default one episode of at most 2,000 steps.
        return_multiple: Target return as a multiple of the dataset's largest return; 1 by default.
        target_return: Target return as a number, in the dataset's reward units.
        show_progress: Whether to show a progress bar on standard error.

    Raises:
        InputError: If a run, ROM or device does not exist, a number is out of range, or the model cannot be played so.
    """
    play = play or PlayConfig(episodes=1, max_steps=2000)
    device = find_device(play.device)
    checkpoint = latest_checkpoint(run_directory)
    model = DecisionTransformer.from_pretrained(checkpoint).to(device)
    dataset = require_dataset(model)
    if play.max_steps < model.config.context_length:
        raise InputError(f"`max_steps` must be at least {model.config.context_length}, the model's context length")
    targets, played = _targets(model, return_multiple, target_return)
    play = dataclasses.replace(play, protocol=play.protocol.resolved(dataset))
    policy = TracingPolicy(
        DecisionTransformerPolicy(model, play.episodes, play.protocol, play.sampling, keep_last_step=True),
        model.config.conditioning,
        targets - targets[played],
        played,
    )
    with translate_out_of_memory(device, "`episodes`"):
        environment = play.environment(dataset)
        env = make_dataset_env(dataset, play.episodes, environment)
        (result,) = evaluate_policy(
            policy,
            env,
            [float(targets[played])],
            play.episodes,
            dataset.reward_clipping,
            play.seed,
            show_progress,
        )
        traces = []
        for steps, emulator_seed, episode in zip(policy.episodes, result.emulator_seeds, result.episodes, strict=True):
            columns = (np.stack(values) for values in zip(*steps, strict=True))
            seen = screens(env.game, environment, int(emulator_seed), episode.actions)
            traces.append(EpisodeTrace(*[*columns, *_in_palette(seen)]))
    conditions = _differences(play.protocol, EvaluationProtocol()) + _differences(play.sampling, Sampling())
    return TracedEvaluation(
        model, checkpoint, targets, played, result, tuple(traces), environment, ", ".join(conditions), play.seed
    )


def _differences(settings: Any, defaults: Any) -> list[str]:
    """What is set otherwise than by default, as text."""
    values = ((each.name, getattr(settings, each.name)) for each in dataclasses.fields(settings))
    return [f"{name.replace('_', ' ')} {value}" for name, value in values if value != getattr(defaults, name)]


def _in_palette(
    seen: Iterable[tuple[Pixels, float]],
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8], npt.NDArray[np.float64]]:
    """Screens of an episode but the last, in colors of a palette; the palette; and all scores."""
    place_of = np.full(2**24, -1, dtype=np.int16)  # of a color in the palette; the console has 128
    palette: list[int] = []
    pictures, scores = [], []
    for screen, score in seen:
        colors = screen.astype(np.int32) @ np.array([2**16, 2**8, 1], dtype=np.int32)
        if (place_of[colors] < 0).any():
            new = np.setdiff1d(colors, palette)
            place_of[new] = len(palette) + np.arange(len(new))
            palette.extend(new.tolist())
        pictures.append(place_of[colors].astype(np.uint8))
        scores.append(score)
    rgb = np.array([[color >> 16, color >> 8 & 255, color & 255] for color in palette], dtype=np.uint8)
    return np.stack(pictures[:-1]), rgb, np.array(scores)


def _targets(
    model: DecisionTransformer, return_multiple: float | None, target_return: float | None
) -> tuple[Floats, int]:
    """The target returns to be shown, and the place of the one to be played among them."""
    dataset = require_dataset(model)
    if model.config.conditioning == "none":
        if return_multiple is not None or target_return is not None:
            raise InputError("behavior cloning has no target return; leave return multiple and target return out")
        return np.zeros(1, dtype=np.float32), 0
    if target_return is None:
        (target_return,) = compute_target_returns(dataset, [1.0 if return_multiple is None else return_multiple])
    elif return_multiple is not None:
        raise InputError("give a return multiple or a target return, not both")
    with np.errstate(over="ignore"):
        played = np.float32(target_return)
    if not np.isfinite(played):
        raise InputError(f"the target return must be a finite number, not {target_return}")
    if dataset.max_return is not None and dataset.max_return > 0:
        grid = compute_target_returns(dataset, GRID_MULTIPLES)
    else:  # returns below 0, or none known: as far below the target as above it
        grid = [target_return + (multiple - 1) * max(abs(target_return), 1.0) for multiple in GRID_MULTIPLES]
    targets = np.unique(np.array([*grid, played], dtype=np.float32))
    return targets, int(np.flatnonzero(targets == played)[0])


class TracingPolicy:
    """A policy that keeps every decision of the one inside it.

    Args:
        policy: the one inside, which keeps its last decision.
        conditioning: of its model.
        shifts: float32 ``[R]``, target returns to be asked about, less the one played; as in
            `DecisionTransformerPolicy.probabilities_under`.
        played: the place among them of the one played, whose shift is 0.

    Attributes:
        episodes: in the order in which they began, for each step what `EpisodeTrace` has, down to ``probabilities``.
    """

    def __init__(self, policy: DecisionTransformerPolicy, conditioning: Conditioning, shifts: Floats, played: int):
        self._policy, self._conditioning = policy, conditioning
        self._other_shifts, self._played = np.delete(shifts, played), played
        self.episodes: list[list[tuple[Any, ...]]] = []
        self._of_game: dict[int, list[tuple[Any, ...]]] = {}

    @property
    def returns_to_go(self) -> Floats:
        """What each game has still to reach, float32 ``[N]``."""
        return self._policy.returns_to_go

    def start(self, indices: Ints, compute_target_returns: Floats, seeds: Ints) -> None:
        """Begin episodes, here and in the policy inside."""
        self._policy.start(indices, compute_target_returns, seeds)
        for game in indices:
            self._of_game[game] = []
            self.episodes.append(self._of_game[game])

    def act(self, indices: Ints, states: npt.NDArray[np.uint8], rewards: Floats) -> Ints:
        """Let the policy inside choose the actions, int64 ``[M]``, and keep what it went by."""
        actions = self._policy.act(indices, states, rewards)
        decision = self._policy.last_step
        assert decision is not None
        newest = decision.num_steps - 1
        places = query_positions(torch.from_numpy(decision.num_steps).to(decision.logits.device), self._conditioning)
        attention, rollout = (
            by_step_and_token_type(of_tokens(decision.attentions, places).cpu().numpy(), self._conditioning)
            for of_tokens in (attention_from, attention_rollout)
        )
        probabilities = decision.probabilities[:, None]
        if len(self._other_shifts):
            others = self._policy.probabilities_under(indices, self._other_shifts)
            probabilities = np.insert(others, self._played, decision.probabilities, axis=1)
        past, returns, timesteps = (
            values.cpu().numpy() for values in (decision.actions, decision.returns_to_go, decision.timesteps)
        )
        context_actions = np.pad(past, [(0, 0), (0, 1)])
        context_actions[np.arange(len(indices)), newest] = actions
        columns = (
            states.copy(), actions, decision.num_steps, context_actions, returns, timesteps, attention, rollout,
            probabilities,
        )  # fmt: skip
        for game, *step in zip(indices, *columns, strict=True):
            self._of_game[game].append(tuple(step))
        return actions
