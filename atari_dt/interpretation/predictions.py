"""What a model with heads for states and returns predicts of the next step, in the units of the data."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from atari_dt.interpretation.episode_trace import EpisodeTrace, Floats
from atari_dt.model.decision_transformer import DecisionTransformer
from atari_dt.model.pretrained import PretrainedModel
from atari_dt.model.vector_encoder import VectorEncoder

_BATCH_SIZE = 64  # contexts in one forward pass


class Predictions(NamedTuple):
    """Predictions of the next step, made at every step of an episode with its context and the action taken.

    Attributes:
        states: Next state in bytes, float32 ``[T, D]``; None unless the model predicts states.
        returns: Next return-to-go in the dataset's reward units, float32 ``[T]``; None unless it predicts returns.
    """

    states: Floats | None
    returns: Floats | None


@torch.inference_mode()
def predict_next(model: PretrainedModel, episode: EpisodeTrace) -> Predictions:
    """Predict the next state and return-to-go at every step of an episode."""
    if not isinstance(model, DecisionTransformer) or not model.config.predict:
        return Predictions(None, None)
    device = next(model.parameters()).device
    states, returns = [], []
    for steps in np.array_split(np.arange(len(episode)), -(-len(episode) // _BATCH_SIZE)):
        batch = episode.batch(steps, device)
        output = model(batch.states, batch.actions, batch.returns_to_go, batch.timesteps)
        newest = torch.arange(len(steps), device=device), batch.attention_mask.sum(1) - 1
        if output.state_predictions is not None:
            assert isinstance(model.state_encoder, VectorEncoder)
            bytes_ = output.state_predictions[newest] * model.state_encoder.scale + model.state_encoder.mean
            states.append(bytes_.cpu().numpy())
        if output.return_predictions is not None:
            returns.append(output.return_predictions[newest][:, 0].cpu().numpy())
    return Predictions(np.concatenate(states) if states else None, np.concatenate(returns) if returns else None)
