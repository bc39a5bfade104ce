"""One update of a model: the hot path."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.parallel import DistributedDataParallel
from torch.utils._triton import has_triton
from torch.utils.flop_counter import FlopCounterMode

from atari_dt.config import ModelConfig, TrainingConfig
from atari_dt.hardware import autocast, keep_freed_memory
from atari_dt.model.decision_transformer import DecisionTransformer
from atari_dt.training.batches import ContextBatch
from atari_dt.training.distributed import ProcessGroup
from atari_dt.training.optimizer import make_optimizer


class Learner:
    """A model with its optimizer. Nothing in an update waits for the device.

    Args:
        model: on its device.
        config: how it is trained.
        dtype: type of the forward pass; weights and optimizer are float32.
        processes: the processes that train together; their gradients are averaged.

    Attributes:
        model: the model.
        optimizer: its optimizer.
    """

    def __init__(self, model: DecisionTransformer, config: TrainingConfig, dtype: torch.dtype, processes: ProcessGroup):
        self.model = model.train()
        self.optimizer = make_optimizer(model, config)
        self._dtype, self._processes, self._grad_norm_clip = dtype, processes, config.grad_norm_clip
        self._device = next(model.parameters()).device
        if self._device.type == "cpu":
            keep_freed_memory()
        network: nn.Module = model
        if config.compile == "on" or (config.compile == "auto" and self._device.type == "cuda" and has_triton()):
            # einops learns a type of tensor when it meets it; what it knows is part of what was compiled.
            for tensor in (next(model.parameters()), torch.zeros(1)):
                rearrange(tensor, "... -> ...")
            network = torch.compile(model, dynamic=False, fullgraph=True)  # type: ignore[assignment]
        if processes.size > 1:
            network = DistributedDataParallel(
                network,
                device_ids=[self._device] if self._device.type == "cuda" else None,
                gradient_as_bucket_view=True,
            )
        self._network = network

    def update(self, batch: ContextBatch, learning_rate: float, share: float = 1.0) -> Tensor:
        """Take a step of the optimizer.

        Args:
            batch: this process's part of the update's contexts.
            learning_rate: of the step.
            share: the part's fraction of all steps that the update learns from, padding aside.

        Returns:
            float32 ``[3]`` on the device: this process's parts of the update's mean cross-entropy and of its action
            accuracy, to be summed over the processes, and the norm of the gradient before clipping, the same in all.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        loss, accuracy = self._forward(self._network, batch)
        loss = loss * share
        self.optimizer.zero_grad()
        (loss * self._processes.size).backward()  # gradients are averaged over the processes, losses are summed
        grad_norm = nn.utils.clip_grad_norm_(self.model.parameters(), self._grad_norm_clip)
        self.optimizer.step()
        return torch.stack([loss.detach(), accuracy * share, grad_norm])

    @torch.no_grad()
    def validate(self, batch: ContextBatch) -> Tensor:
        """Mean cross-entropy and action accuracy of a batch, float32 ``[2]`` on the device, without dropout."""
        self.model.eval()
        values = torch.stack(self._forward(self.model, batch))
        self.model.train()
        return values

    def _forward(self, network: nn.Module, batch: ContextBatch) -> tuple[Tensor, Tensor]:
        with autocast(self._device, self._dtype):
            output = network(
                batch.states,
                batch.actions,
                batch.returns_to_go,
                batch.timesteps,
                batch.attention_mask,
                targets=batch.actions,
            )
        right = (output.action_logits.detach().argmax(-1) == batch.actions) & batch.attention_mask
        return output.loss, right.sum() / batch.attention_mask.sum()


def flops_per_context(config: ModelConfig, num_actions: int) -> int:
    """Floating-point operations of an update for one context of K steps: products forwards and backwards.

    As is usual, a multiplication and an addition count as two, attention counts in full though half of it is masked,
    and element-wise work does not count.
    """
    steps = config.context_length
    with FakeTensorMode(), FlopCounterMode(display=False) as counter:  # shapes without numbers
        model = DecisionTransformer(config, num_actions, max_timestep=0)
        states = torch.zeros(1, steps, 4, 84, 84, dtype=torch.uint8)
        indices = torch.zeros(1, steps, dtype=torch.int64)
        model(states, indices, torch.zeros(1, steps), indices, targets=indices).loss.backward()
    return int(counter.get_total_flops())
