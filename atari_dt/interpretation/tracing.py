"""Play episodes with a trained model and trace every decision."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from atari_dt.environment.config import Frames
from atari_dt.evaluation.evaluator import evaluate_policy, make_dataset_env
from atari_dt.evaluation.play_config import PlayConfig
from atari_dt.evaluation.target_returns import (
    check_target_returns,
    compute_target_returns,
    look_up_percentiles,
)
from atari_dt.hardware import find_device, translate_out_of_memory
from atari_dt.interpretation.attention import (
    attention_from,
    attention_rollout,
    by_step_and_token_type,
    query_positions,
    token_types,
)
from atari_dt.interpretation.episode_trace import EpisodeTrace, Floats, Ints, Preference, TracedEvaluation
from atari_dt.method_config import SequenceConfig
from atari_dt.methods.registry import find_method, load_model
from atari_dt.model.pretrained import PretrainedModel, latest_checkpoint
from atari_dt.model.q_network import QNetwork
from atari_dt.policies.decision_transformer import DecisionTransformerPolicy
from atari_dt.policies.policy import Policy
from atari_dt.policies.predictors import MIN_STATES, ContextModel, pad_rows
from atari_dt.policies.protocol import EvaluationProtocol
from atari_dt.policies.sampling import Sampling
from atari_dt.rendering.video import Pixels, screens
from replay_data import InputError

# Multiples of the dataset's largest return whose action probabilities are traced beside the played target return.
GRID_MULTIPLES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)

_RGB_WEIGHTS = np.array([2**16, 2**8, 1], dtype=np.int32)


def trace_episodes(
    run_directory: Path,
    play: PlayConfig | None = None,
    *,
    return_multiple: float | None = None,
    return_percentile: int | None = None,
    target_return: float | None = None,
    show_progress: bool = True,
) -> TracedEvaluation:
    """Play episodes with a trained model and trace every decision.

    The episodes are those of an evaluation with the same seed and without a cache, which knows no attention weights and
    no other target returns; the logits of a Decision Transformer differ in the last bits.

    Args:
        run_directory: Run directory or checkpoint.
        play: How the model plays; by default one episode of at most 2,000 steps.
        return_multiple: Target return as a multiple of the dataset's largest return; 1 by default.
        return_percentile: Target return as a percentile of the dataset's episode returns, instead of a multiple.
        target_return: Target return in the dataset's reward units, instead of a multiple.
        show_progress: Whether to show a progress bar on standard error.

    Raises:
        InputError: If the run, ROM or device does not exist, a number is out of range, or the protocol does not fit the
            model.
    """
    play = play or PlayConfig(episodes=1, max_steps=2000)
    device = find_device(play.device)
    checkpoint = latest_checkpoint(run_directory)
    model = load_model(checkpoint).to(device)
    dataset = model.require_dataset()
    context_length = find_method(model.config).window_length(model.config)
    if play.max_steps < context_length:
        raise InputError(f"`max_steps` must be at least {context_length}, the model's context length")
    target_return = played_target_return(model, return_multiple, return_percentile, target_return)
    target_returns, played_index = _traced_target_returns(model, target_return)
    if play.protocol.cache == "on":
        raise InputError("`cache` must be 'auto' or 'off': episodes are traced without a cache")
    protocol = dataclasses.replace(play.protocol, cache="off").resolved(dataset, model.config)
    play = dataclasses.replace(play, protocol=protocol)
    policy = _make_policy(model, play, target_returns, played_index)
    with translate_out_of_memory(device, "`episodes`"):
        environment = play.environment(dataset)
        env = make_dataset_env(dataset, play.episodes, environment, model.observation)
        (result,) = evaluate_policy(
            policy,
            env,
            [float(target_returns[played_index])],
            play.episodes,
            dataset.reward_clipping,
            play.seed,
            show_progress,
        )
        traces = []
        for steps, emulator_seed, episode in zip(policy.episodes, result.emulator_seeds, result.episodes, strict=True):
            states, *columns = (np.stack(values) for values in zip(*steps, strict=True))
            replayed = screens(env.game, environment, int(emulator_seed), episode.actions)
            indexed_screens, palette, frames, scores = _to_palette(replayed)
            if not model.observation.is_vector:
                frames = states[:, -1]
            traces.append(EpisodeTrace(*[states, *columns, frames, indexed_screens, palette, scores]))
    if not model.config.cacheable:
        protocol = dataclasses.replace(protocol, cache="auto")  # not worth a mention
    overrides = _describe_overrides(protocol, EvaluationProtocol())
    overrides += _describe_overrides(play.sampling, Sampling())
    return TracedEvaluation(
        model,
        checkpoint,
        target_returns,
        played_index,
        result,
        tuple(traces),
        environment,
        ", ".join(overrides),
        play.seed,
        policy.token_types,
        policy.preference,
    )


class StepTrace(NamedTuple):
    """One step of an `EpisodeTrace`: its fields up to ``preferences``, without the leading T."""

    state: npt.NDArray[np.uint8]
    action: np.int64
    num_steps: np.int64
    context_actions: Ints
    returns_to_go: Floats
    timesteps: Ints
    attention: Floats
    rollout: Floats
    preferences: npt.NDArray[np.float64]


class TracingPolicy(ABC):
    """Policy that traces every decision of another policy.

    Args:
        policy: Traced policy.

    Attributes:
        token_types: Types of the tokens whose attention is traced.
        preference: What the traced ``preferences`` are.
        episodes: Steps of each episode, in the order in which the episodes began.
    """

    token_types: tuple[str, ...]
    preference: Preference

    def __init__(self, policy: Policy):
        self._traced_policy = policy
        self.episodes: list[list[StepTrace]] = []
        self._current_episodes: dict[int, list[StepTrace]] = {}  # by environment index

    @property
    def returns_to_go(self) -> Floats:
        """Return-to-go of each environment, float32 ``[N]``."""
        return self._traced_policy.returns_to_go

    def start(self, env_indices: Ints, target_returns: Floats, seeds: Ints) -> None:
        """Begin an episode in each of the given environments."""
        self._traced_policy.start(env_indices, target_returns, seeds)
        for env_index in env_indices:
            self._current_episodes[env_index] = []
            self.episodes.append(self._current_episodes[env_index])

    def act(self, env_indices: Ints, states: npt.NDArray[np.uint8], rewards: Floats) -> Ints:
        """Choose actions with the traced policy, int64 ``[M]``, and trace the decisions."""
        actions = self._traced_policy.act(env_indices, states, rewards)
        columns: list[npt.NDArray[Any]] = [states.copy(), actions, *self.describe(env_indices, states, actions)]
        for env_index, *values in zip(env_indices, *columns, strict=True):
            self._current_episodes[env_index].append(StepTrace(*values))
        return actions

    @abstractmethod
    def describe(self, env_indices: Ints, states: npt.NDArray[np.uint8], actions: Ints) -> list[npt.NDArray[Any]]:
        """Return the fields of `StepTrace` after ``action`` for the decisions that were just made.

        Args:
            env_indices: Indices of the environments, int64 ``[M]``.
            states: States, uint8 ``[M, *state_shape]``.
            actions: Actions chosen, int64 ``[M]``.

        Returns:
            Arrays ``[M, ...]``.
        """


class TransformerTracingPolicy(TracingPolicy):
    """Policy that traces every decision of a `DecisionTransformerPolicy`, with its attention weights.

    Args:
        policy: Traced policy, with ``keep_last_step``.
        config: Config of the policy's model.
        shifts: Differences of R target returns from the played one, float32 ``[R]``; see
            `DecisionTransformerPolicy.probabilities_under`.
        played_index: Index of the played target return, whose shift is 0.
    """

    preference = "probability"

    def __init__(self, policy: DecisionTransformerPolicy, config: SequenceConfig, shifts: Floats, played_index: int):
        super().__init__(policy)
        self.token_types = token_types(config.conditioning)
        self._policy, self._conditioning = policy, config.conditioning
        self._other_shifts, self._played_index = np.delete(shifts, played_index), played_index

    def describe(self, env_indices: Ints, states: npt.NDArray[np.uint8], actions: Ints) -> list[npt.NDArray[Any]]:
        """Return the context, its attention, and the action probabilities under each target return."""
        step = self._policy.last_step
        assert step is not None
        inputs = step.forward_pass
        assert inputs.attentions is not None
        positions = query_positions(torch.from_numpy(step.num_steps).to(inputs.logits.device), self._conditioning)
        attention, rollout = (
            by_step_and_token_type(weights.cpu().numpy(), self._conditioning)
            for weights in (
                attention_from(inputs.attentions, positions),
                attention_rollout(inputs.attentions, positions),
            )
        )
        probabilities = step.probabilities[:, None]
        if len(self._other_shifts):
            others = self._policy.probabilities_under(env_indices, self._other_shifts)
            probabilities = np.insert(others, self._played_index, step.probabilities, axis=1)
        context_actions = np.pad(inputs.actions.cpu().numpy(), [(0, 0), (0, 1)])
        context_actions[np.arange(len(env_indices)), step.num_steps - 1] = actions
        returns_to_go, timesteps = inputs.returns_to_go.cpu().numpy(), inputs.timesteps.cpu().numpy()
        return [step.num_steps, context_actions, returns_to_go, timesteps, attention, rollout, probabilities]


class ValueTracingPolicy(TracingPolicy):
    """Policy that traces every decision of the policy of a Q-network, with Q of every action.

    Args:
        policy: Traced policy.
        model: Its network, in evaluation mode.
    """

    token_types = ()
    preference = "Q"

    def __init__(self, policy: Policy, model: QNetwork):
        super().__init__(policy)
        self._model, self._device = model, next(model.parameters()).device

    @torch.inference_mode()
    def describe(self, env_indices: Ints, states: npt.NDArray[np.uint8], actions: Ints) -> list[npt.NDArray[Any]]:
        """Return contexts of one step, and Q of every action."""
        size = len(actions)
        # As many rows as the policy computes, for the same bits.
        rows = pad_rows(torch.from_numpy(states).to(self._device), MIN_STATES)
        q_values = self._model.q_values(rows)[:size].double().cpu().numpy()
        returns_to_go, timesteps = np.zeros((size, 1), np.float32), np.zeros((size, 1), np.int64)
        attention, rollout = np.zeros((size, 0, 0, 1, 0), np.float32), np.zeros((size, 1, 0), np.float32)
        num_steps = np.ones(size, np.int64)
        return [num_steps, actions[:, None], returns_to_go, timesteps, attention, rollout, q_values[:, None]]


def _make_policy(model: PretrainedModel, play: PlayConfig, target_returns: Floats, played_index: int) -> TracingPolicy:
    """Return the policy that plays and traces a model."""
    play.planning.check(model.config)
    if isinstance(model, QNetwork):
        policy = find_method(model.config).make_policy(
            model, play.episodes, play.protocol, play.sampling, play.planning
        )
        return ValueTracingPolicy(policy, model)
    assert isinstance(model, ContextModel)
    shifts = target_returns - target_returns[played_index]
    return TransformerTracingPolicy(
        DecisionTransformerPolicy(model, play.episodes, play.protocol, play.sampling, keep_last_step=True),
        model.config,
        shifts,
        played_index,
    )


def played_target_return(
    model: PretrainedModel,
    return_multiple: float | None = None,
    return_percentile: int | None = None,
    target_return: float | None = None,
) -> float | None:
    """Return the target return that a model plays under, in the dataset's reward units; None for a model without one.

    Args:
        model: Model that knows its dataset.
        return_multiple: Target return as a multiple of the dataset's largest return; 1 by default.
        return_percentile: Target return as a percentile of the dataset's episode returns, instead of a multiple.
        target_return: Target return in the dataset's reward units, instead of a multiple.

    Raises:
        InputError: If more than one is given, one is out of range, or the model has no target return.
    """
    dataset = model.require_dataset()
    num_given = sum(given is not None for given in (return_multiple, return_percentile, target_return))
    if not model.config.conditioned:
        if num_given:
            raise InputError(
                f"{model.config.title} has no target return; omit `return_multiple`, `return_percentile` and "
                "`target_return`"
            )
        return None
    if num_given > 1:
        raise InputError("set only one of `return_multiple`, `return_percentile` and `target_return`")
    if return_percentile is not None:
        (target_return,) = look_up_percentiles(dataset, [return_percentile])
    elif target_return is None:
        (target_return,) = compute_target_returns(dataset, [1.0 if return_multiple is None else return_multiple])
    check_target_returns([target_return])
    return target_return


def _traced_target_returns(model: PretrainedModel, target_return: float | None) -> tuple[Floats, int]:
    """Return the traced target returns, ascending, and the index of the played one."""
    if target_return is None:
        return np.zeros(1, dtype=np.float32), 0
    dataset, played = model.require_dataset(), np.float32(target_return)
    if dataset.max_return is not None and dataset.max_return > 0:
        grid = compute_target_returns(dataset, GRID_MULTIPLES)
    else:  # no positive largest return to multiply: a grid centered on the played target return
        grid = [target_return + (multiple - 1) * max(abs(target_return), 1.0) for multiple in GRID_MULTIPLES]
    target_returns = np.unique(np.array([*grid, played], dtype=np.float32))
    return target_returns, int(np.flatnonzero(target_returns == played)[0])


def _describe_overrides(settings: Any, defaults: Any) -> list[str]:
    """Return name and value of each setting that differs from its default."""
    values = ((field.name, getattr(settings, field.name)) for field in dataclasses.fields(settings))
    return [f"{name.replace('_', ' ')} {value}" for name, value in values if value != getattr(defaults, name)]


def _to_palette(
    replayed: Iterable[tuple[Pixels, Frames, float]],
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8], npt.NDArray[np.uint8], npt.NDArray[np.float64]]:
    """Return the screens before each action as palette indices, the palette, the frames, and the scores.

    The end has a score, but no screen and no frame.
    """
    index_of_color = np.full(2**24, -1, dtype=np.int16)  # the console has 128 colors, so an index fits 8 bits
    palette: list[int] = []
    indexed_screens, frames, scores = [], [], []
    for screen, frame, score in replayed:
        colors = screen.astype(np.int32) @ _RGB_WEIGHTS
        if (index_of_color[colors] < 0).any():
            new = np.setdiff1d(colors, palette)
            index_of_color[new] = len(palette) + np.arange(len(new))
            palette.extend(new.tolist())
        indexed_screens.append(index_of_color[colors].astype(np.uint8))
        frames.append(frame)
        scores.append(score)
    rgb = np.array([[color >> 16, color >> 8 & 255, color & 255] for color in palette], dtype=np.uint8)
    return np.stack(indexed_screens[:-1]), rgb, np.stack(frames[:-1]), np.array(scores)
