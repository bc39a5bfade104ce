"""Saliency: which pixels of which frame change what an action was chosen by: its logit, or Q.

Both methods return a map for each frame of each step's stack. A frame occurs in up to four stacks of a context;
`sum_by_frame` adds its maps. `gradient_times_input` also explains models that observe vectors; their occlusion is
`atari_dt.interpretation.saliency_vectors.entry_occlusion`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from einops import rearrange, repeat
from torch import Tensor

from atari_dt.batches.contexts import ContextBatch
from atari_dt.interpretation.visualization_config import Explained, check_patch
from atari_dt.methods.registry import find_method
from atari_dt.model.decision_transformer import DecisionTransformer
from atari_dt.model.hf_decision_transformer import HFDecisionTransformer
from atari_dt.model.pretrained import PretrainedModel
from atari_dt.model.vector_encoder import VectorEncoder
from replay_data.episode import LEAD_IN, STACK

FRAME_SIZE = 84  # pixels along a side


def gradient_times_input(model: PretrainedModel, batch: ContextBatch, explain: Explained = "score") -> Tensor:
    """Multiply every input by the derivative of the last action's score (Shrikumar et al. 2016).

    To first order, a positive value means that the input raises the score. The inputs are the pixels, of which black
    ones have value 0; or the normalized entries of a vector, of which those at the mean of the data have value 0.

    Args:
        model: Model in evaluation mode. The scores of a Decision Transformer are logits, those of a Q-network are Q.
        batch: B contexts on the model's device, of one step for a Q-network. The explained action is the last one of
            each context.
        explain: ``"score"``, or ``"advantage"`` for the score minus the mean score of all actions (for Q, the
            advantage of Wang et al. 2016, equation 9).

    Returns:
        Saliency in the unit of the score, float32 ``[B, K, 4, 84, 84]``, or ``[B, K, D]`` of vectors; 0 on padding.
    """
    states = batch.states.float().requires_grad_()
    encoded = find_method(model.config).encode_states(model, states)
    # A score depends on its own context only, so the gradient of the sum holds the gradient of each score.
    (gradient,) = torch.autograd.grad(_last_scores(model, encoded, batch, explain).sum(), states)
    inputs = states.detach()
    if model.observation.is_vector:
        # The scale cancels out: an input is (x - mean) / scale, and its derivative is the one of x times scale.
        inputs = inputs - mean_state(model)
    return gradient * inputs


def mean_state(model: PretrainedModel) -> Tensor:
    """Return the mean of each entry of a state in the training data, float32 ``[D]``, of a model of vectors."""
    if isinstance(model, HFDecisionTransformer):
        return model.mean
    assert isinstance(model, DecisionTransformer)
    assert isinstance(model.state_encoder, VectorEncoder)
    return model.state_encoder.mean


def occlusion(
    model: PretrainedModel,
    batch: ContextBatch,
    patch: int = 12,
    last_steps: int | None = None,
    batch_size: int = 256,
    explain: Explained = "score",
) -> Tensor:
    """Cover one patch at a time and measure how far the last action's score falls (Zeiler & Fergus 2014).

    A patch belongs to one frame of one step's stack. It is filled with the frame's most frequent gray level, which is
    the background of most games.

    Args:
        model: Model of frames in evaluation mode; see `gradient_times_input`.
        batch: B contexts on the model's device. The explained action is the last one of each context.
        patch: Side of a patch in pixels, a divisor of 84.
        last_steps: Number of newest steps whose states are covered; all by default.
        batch_size: Number of covered states in one forward pass.
        explain: What is measured; see `gradient_times_input`.

    Returns:
        Drop of the score, float32 ``[B, K, 4, 84 / patch, 84 / patch]``: positive where the patch raises the score; 0
        for steps that were not covered and on padding.

    Raises:
        InputError: If 84 is not a multiple of ``patch``.
    """
    check_patch(patch)
    patches = FRAME_SIZE // patch  # along a side
    # Mask c covers frame c // patches²; the patches of a frame are in row-major order.
    masks = torch.eye(STACK * patches**2, dtype=torch.bool, device=batch.actions.device)
    masks = rearrange(masks, "c (f y x) -> c f y x", f=STACK, y=patches)

    def cover(state: Tensor, chosen: Tensor) -> Tensor:
        background = state.flatten(1).mode().values[:, None, None]
        covered = repeat(masks[chosen], "c f y x -> c f (y dy) (x dx)", dy=patch, dx=patch)
        return torch.where(covered, background, state)

    drops = measure_drops(model, batch, len(masks), cover, last_steps, batch_size, explain)
    return rearrange(drops, "b k (f y x) -> b k f y x", f=STACK, y=patches)


@torch.no_grad()
def measure_drops(
    model: PretrainedModel,
    batch: ContextBatch,
    num_parts: int,
    cover: Callable[[Tensor, Tensor], Tensor],
    last_steps: int | None,
    batch_size: int,
    explain: Explained,
) -> Tensor:
    """Cover one part of a state at a time and measure how far the last action's score falls.

    Args:
        model: Model in evaluation mode; see `gradient_times_input`.
        batch: B contexts on the model's device.
        num_parts: Number of parts of a state.
        cover: Function from a state ``[*state_shape]`` and the indices of parts, int64 ``[M]``, to M states, each with
            one of the parts covered.
        last_steps: As in `occlusion`.
        batch_size: As in `occlusion`.
        explain: See `gradient_times_input`.

    Returns:
        Drop of the score, float32 ``[B, K, num_parts]``; 0 for steps that were not covered and on padding.
    """
    encode_states = find_method(model.config).encode_states
    num_contexts, steps = batch.actions.shape
    drops = torch.zeros(num_contexts, steps, num_parts, device=batch.actions.device)
    for index in range(num_contexts):
        context = _without_padding(batch, index)
        num_steps = context.actions.shape[1]
        encoded = encode_states(model, context.states)
        score = _last_scores(model, encoded, context, explain)
        for step in range(0 if last_steps is None else max(0, num_steps - last_steps), num_steps):
            for chunk in torch.arange(num_parts).split(batch_size):
                changed = encoded.expand(len(chunk), -1, -1).clone()
                changed[:, step] = encode_states(model, cover(context.states[0, step], chunk))
                drops[index, step, chunk] = score - _last_scores(model, changed, context, explain)
    return drops


def sum_by_frame(saliency: Tensor) -> Tensor:
    """Add the maps of each frame over the stacks that contain it.

    Args:
        saliency: Maps of stacks, ``[..., K, 4, h, w]``.

    Returns:
        Maps of frames ``[..., K + 3, h, w]``, oldest first. The newest frame of step k has index k + 3.
    """
    steps = saliency.shape[-4]
    frames = saliency.new_zeros(*saliency.shape[:-4], steps + LEAD_IN, *saliency.shape[-2:])
    for index in range(STACK):
        frames[..., index : index + steps, :, :] += saliency[..., index, :, :]
    return frames


def sum_by_cell(saliency: Tensor, cells: int) -> Tensor:
    """Add the pixels of square cells: ``[..., 84, 84]`` becomes ``[..., cells, cells]``."""
    size = FRAME_SIZE // cells
    return saliency.unflatten(-2, (cells, size)).unflatten(-1, (cells, size)).sum((-3, -1))


def _last_scores(model: PretrainedModel, encoded_states: Tensor, batch: ContextBatch, explain: Explained) -> Tensor:
    """Return the score of each context's last action.

    Args:
        model: Model in evaluation mode.
        encoded_states: Encoded states ``[M, K, D]``.
        batch: M contexts, or one context that is shared by all M.
        explain: See `gradient_times_input`.

    Returns:
        Scores ``[M]``.
    """
    scores = find_method(model.config).score_actions(model, encoded_states, batch)
    last = batch.attention_mask.sum(1, keepdim=True) - 1
    chosen = scores.gather(1, batch.actions.gather(1, last).expand(len(scores), -1))[:, 0]
    return chosen if explain == "score" else chosen - scores.mean(1)


def _without_padding(batch: ContextBatch, index: int) -> ContextBatch:
    """Return one context as a batch without padding."""
    steps = int(batch.attention_mask[index].sum())
    tensors = batch.states, batch.actions, batch.returns_to_go, batch.timesteps, batch.attention_mask
    return ContextBatch(*(tensor[index : index + 1, :steps] for tensor in tensors))
