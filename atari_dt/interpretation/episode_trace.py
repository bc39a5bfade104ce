"""Traces of episodes: what the model saw, attended to and chose at every step."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from atari_dt.batches.contexts import ContextBatch
from atari_dt.environment.config import FRAME_SKIP, EnvironmentConfig
from atari_dt.evaluation.results import EvaluationResult
from atari_dt.games.catalogue import Game, find_game
from atari_dt.games.ram_variables import name_entries
from atari_dt.model.dataset_info import DatasetInfo
from atari_dt.model.pretrained import PretrainedModel

Floats = npt.NDArray[np.float32]

Ints = npt.NDArray[np.int64]

Preference = Literal["probability", "Q"]


@dataclass(frozen=True)
class EpisodeTrace:
    """Trace of an episode of T steps.

    Contexts are left-aligned, as in `PolicyStep`; values after the newest step are undefined. A Q-network has contexts
    of one step (K = 1), no returns-to-go and timesteps (0), and no attention (0 layers, heads and token types).

    Attributes:
        states: What the model observed, uint8 ``[T, 4, 84, 84]``, or ``[T, D]`` of vectors.
        actions: int64 ``[T]``.
        num_steps: Number of steps in each context, at most K, int64 ``[T]``.
        context_actions: int64 ``[T, K]``; includes the action taken at the newest step.
        returns_to_go: Returns-to-go as the model read them, float32 ``[T, K]``.
        timesteps: Timesteps as the model read them, int64 ``[T, K]``.
        attention: Attention from the query token, float32 ``[T, layers, heads, K, token_types]``.
        rollout: Attention rollout, float32 ``[T, K, token_types]``; see `attention_rollout`.
        preferences: What the actions were chosen by, float64 ``[T, R, num_actions]``: probabilities under each of R
            target returns, given the same history, or Q (R = 1). Actions were drawn from the probabilities under the
            played target return, or have the largest Q, except for the random ones of an epsilon-greedy policy.
        frames: Newest frame before each action, uint8 ``[T, 84, 84]``, also of models that observe vectors.
        screens: Screen before each action as palette indices, uint8 ``[T, 210, 160]`` (taller in some games).
        palette: RGB colors, uint8 ``[P, 3]``.
        scores: Score before each action and at the end in points, float64 ``[T + 1]``.
    """

    states: npt.NDArray[np.uint8]
    actions: Ints
    num_steps: Ints
    context_actions: Ints
    returns_to_go: Floats
    timesteps: Ints
    attention: Floats
    rollout: Floats
    preferences: npt.NDArray[np.float64]
    frames: npt.NDArray[np.uint8]
    screens: npt.NDArray[np.uint8]
    palette: npt.NDArray[np.uint8]
    scores: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.actions)

    @property
    def largest_spread(self) -> float:
        """Largest difference of the preferences of two actions in one step, over all steps."""
        return float(np.ptp(self.preferences, axis=-1).max())

    def batch(self, steps: Ints, device: torch.device) -> ContextBatch:
        """Return the contexts of the given steps ``[B]`` as a batch on a device."""
        offsets = np.arange(self.context_actions.shape[1])
        rows = np.minimum(steps[:, None] - self.num_steps[steps, None] + 1 + offsets, steps[:, None])
        mask = offsets < self.num_steps[steps, None]
        arrays = self.states[rows], self.context_actions[steps], self.returns_to_go[steps], self.timesteps[steps], mask
        return ContextBatch(*(torch.from_numpy(array).to(device) for array in arrays))


@dataclass(frozen=True)
class TracedEvaluation:
    """Traced episodes of one model under one target return.

    Attributes:
        model: Evaluated model.
        checkpoint: Directory of the checkpoint.
        target_returns: Target returns of the traces' ``preferences``, ascending, float32 ``[R]``; one placeholder for
            models without target returns.
        played_index: Index of the played target return.
        result: Scores, seeds and actions.
        episodes: Trace of each episode.
        environment: Config of the environment.
        overrides: Protocol and sampling settings that differ from the defaults, as text.
        seed: Seed of the emulator, the no-ops and the action sampling.
        token_types: Types of the tokens whose attention the traces hold.
        preference: What the traces' ``preferences`` are.
    """

    model: PretrainedModel
    checkpoint: Path
    target_returns: Floats
    played_index: int
    result: EvaluationResult
    episodes: tuple[EpisodeTrace, ...]
    environment: EnvironmentConfig
    overrides: str
    seed: int
    token_types: tuple[str, ...]
    preference: Preference

    @property
    def dataset(self) -> DatasetInfo:
        """Dataset the model was trained on."""
        return self.model.require_dataset()

    @property
    def game(self) -> Game:
        """Game of the dataset."""
        return find_game(self.dataset.game)

    @property
    def name(self) -> str:
        """Names of the run and the checkpoint, such as ``"run/update-00001000"``."""
        parts = [part for part in self.checkpoint.absolute().parts if part not in ("checkpoints", "training")]
        return "/".join(parts[-2:])

    @property
    def title(self) -> str:
        """Title of the pictures and the page."""
        return f"{self.game.name}: {'attention and saliency' if self.token_types else 'saliency'}"

    @property
    def conditioned(self) -> bool:
        """Whether the model is conditioned on returns."""
        return self.model.config.conditioned

    @property
    def context_length(self) -> int:
        """K, the number of steps of a full context."""
        return self.episodes[0].context_actions.shape[1]

    @property
    def lead_in(self) -> int:
        """Number of frames of a full context's oldest state before its newest: 3, or 0 for a model of vectors."""
        return self.model.observation.stack - 1

    @property
    def entry_names(self) -> tuple[str, ...]:
        """Name of each entry of a vector, such as ``"ball_x"`` or ``"RAM 99 (ball_x)"``; empty for frames."""
        return name_entries(self.model.observation, self.game.name)

    @property
    def target_return(self) -> float:
        """Played target return."""
        return float(self.target_returns[self.played_index])

    @property
    def best_episode_index(self) -> int:
        """Index of the episode with the highest score."""
        return int(self.result.scores.argmax())

    def truncated(self, episode: EpisodeTrace) -> bool:
        """Return whether an episode reached the step limit."""
        return len(episode) * FRAME_SKIP >= self.environment.max_frames

    def target_label(self, target_return: float) -> str:
        """Return a target return and its multiple of the dataset's largest return as text, such as ``"45 (0.5×)"``."""
        largest = self.dataset.max_return
        multiple = f" ({target_return / largest:.3g}×)" if largest is not None and largest > 0 else ""
        return f"{format_number(target_return)}{multiple}" if self.conditioned else f"none ({self.model.config.label})"

    def without_attention(self) -> TracedEvaluation:
        """Return a copy without attention, for views of saliency alone."""
        episodes = (
            dataclasses.replace(each, attention=each.attention[:, :0, :0, :, :0], rollout=each.rollout[:, :, :0])
            for each in self.episodes
        )
        return dataclasses.replace(self, episodes=tuple(episodes), token_types=())


def format_number(value: float) -> str:
    """Return a score or return as text with at most two decimals and no trailing zeros."""
    return f"{round(value, 2) + 0:.2f}".rstrip("0").rstrip(".")  # + 0 turns -0.0 into 0.0
