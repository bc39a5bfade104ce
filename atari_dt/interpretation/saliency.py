"""Which pixels of which frame moved the logit of the last action of a context.

Both maps have a place for each step of the context and each frame of its stack, because the model reads a frame up to
four times, in four steps' stacks; `by_frame` adds these up.
"""

from __future__ import annotations

import torch
from einops import rearrange, repeat
from torch import Tensor

from atari_dt.model.decision_transformer import DecisionTransformer
from atari_dt.training.batches import ContextBatch
from replay_data import InputError

SIDE = 84


def gradient_times_input(model: DecisionTransformer, batch: ContextBatch) -> Tensor:
    """Multiply every pixel with the derivative of the last action's logit by it (Shrikumar et al. 2016).

    Positive where a pixel speaks for the action, to first order; black pixels have none.

    Args:
        model: in evaluation mode.
        batch: B contexts on the model's device; the action that is explained is the last one of each.

    Returns:
        float32 ``[B, K, 4, 84, 84]``, in logits; 0 on padding.
    """
    states = batch.states.float().requires_grad_()
    # Each logit depends on its own context alone, so the gradient of the sum is all of theirs.
    (gradient,) = torch.autograd.grad(_last_logits(model, model.encode_states(states), batch).sum(), states)
    return gradient * states.detach()


@torch.no_grad()
def occlusion(
    model: DecisionTransformer, batch: ContextBatch, patch: int = 12, last_steps: int | None = None, at_once: int = 256
) -> Tensor:
    """Cover one patch of one frame of one step's stack at a time, and see how far the last action's logit falls.

    (Zeiler & Fergus 2014.) A patch is covered with its frame's most frequent grey, which is the background of most
    games.

    Args:
        model: in evaluation mode.
        batch: as in `gradient_times_input`.
        patch: side of a patch in pixels, a divisor of 84.
        last_steps: cover only these many steps of each context, the newest; all by default.
        at_once: covered states that go through the model together.

    Returns:
        float32 ``[B, K, 4, 84 / patch, 84 / patch]``, in logits: positive where the patch spoke for the action; 0 where
        nothing was covered, and on padding.

    Raises:
        InputError: if the patch does not divide the frame.
    """
    check_patch(patch)
    contexts, steps = batch.actions.shape
    places = SIDE // patch
    drops = torch.zeros(contexts, steps, 4 * places**2, device=batch.actions.device)
    # Cover c is of frame c // places²; patches are counted line by line.
    covers = torch.eye(4 * places**2, dtype=torch.bool, device=drops.device)
    covers = rearrange(covers, "c (f y x) -> c f y x", f=4, y=places)
    for context in range(contexts):
        one = _only(batch, context)
        num_steps = one.actions.shape[1]
        tokens = model.encode_states(one.states)
        logit = _last_logits(model, tokens, one)
        for step in range(0 if last_steps is None else max(0, num_steps - last_steps), num_steps):
            state = one.states[0, step]
            background = state.flatten(1).mode().values[:, None, None]
            for part in torch.arange(len(covers)).split(at_once):
                covered = repeat(covers[part], "c f y x -> c f (y dy) (x dx)", dy=patch, dx=patch)
                changed = tokens.expand(len(part), -1, -1).clone()
                changed[:, step] = model.encode_states(torch.where(covered, background, state))
                drops[context, step, part] = logit - _last_logits(model, changed, one)
    return rearrange(drops, "b k (f y x) -> b k f y x", f=4, y=places)


def check_patch(patch: int) -> None:
    """Raise InputError unless patches of that side fill a frame."""
    if patch < 1 or SIDE % patch:
        raise InputError(f"patch must be a divisor of {SIDE}, such as 6, 12 or 14, not {patch}")


def by_frame(saliency: Tensor) -> Tensor:
    """Add up what stacks share: ``[..., K, 4, h, w]`` becomes ``[..., K + 3, h, w]``, from the oldest frame on.

    The newest frame of step k is at place k + 3.
    """
    steps = saliency.shape[-4]
    frames = saliency.new_zeros(*saliency.shape[:-4], steps + 3, *saliency.shape[-2:])
    for place in range(4):
        frames[..., place : place + steps, :, :] += saliency[..., place, :, :]
    return frames


def by_cell(saliency: Tensor, cells: int) -> Tensor:
    """Add up square cells of pixels: ``[..., 84, 84]`` becomes ``[..., cells, cells]``."""
    size = SIDE // cells
    return saliency.unflatten(-2, (cells, size)).unflatten(-1, (cells, size)).sum((-3, -1))


def _last_logits(model: DecisionTransformer, tokens: Tensor, batch: ContextBatch) -> Tensor:
    """The logit of each context's last action, ``[M]``, from state tokens ``[M, K, D]``; one context serves all M."""
    actions, returns, timesteps = (
        values.expand(len(tokens), -1) for values in (batch.actions, batch.returns_to_go, batch.timesteps)
    )
    logits = model.predict(tokens, actions, returns, timesteps).action_logits
    last = batch.attention_mask.sum(1).expand(len(tokens)) - 1
    contexts = torch.arange(len(tokens), device=tokens.device)
    return logits[contexts, last, actions[contexts, last]]


def _only(batch: ContextBatch, context: int) -> ContextBatch:
    """One context without its padding."""
    steps = int(batch.attention_mask[context].sum())
    tensors = batch.states, batch.actions, batch.returns_to_go, batch.timesteps, batch.attention_mask
    return ContextBatch(*(tensor[context : context + 1, :steps] for tensor in tensors))
