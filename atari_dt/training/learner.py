"""One update of a model."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.parallel import DistributedDataParallel
from torch.utils.flop_counter import FlopCounterMode

from atari_dt.config import ModelConfig, TrainingConfig
from atari_dt.hardware import Compute, autocast
from atari_dt.model.decision_transformer import DecisionTransformer
from atari_dt.training.batches import ContextBatch
from atari_dt.training.distributed import ProcessGroup
from atari_dt.training.optimizer import make_optimizer


class Learner:
    """Trains a model, one update at a time. No update waits for the device.

    Args:
        model: Model, on the device of ``compute``.
        config: Config of the training.
        compute: Device, type of the forward pass, and compilation. Weights and optimizer states are float32.
        group: Processes that train together; their gradients are averaged.

    Attributes:
        model: Model.
        optimizer: Optimizer of the model.
    """

    def __init__(self, model: DecisionTransformer, config: TrainingConfig, compute: Compute, group: ProcessGroup):
        self.model = model.train()
        self.optimizer = make_optimizer(model, config)
        self._compute, self._group, self._grad_norm_clip = compute, group, config.grad_norm_clip
        network: nn.Module = model
        if compute.compiled:
            # einops registers a tensor type at its first use, and the compiled code depends on the registered types.
            for tensor in (next(model.parameters()), torch.zeros(1)):
                rearrange(tensor, "... -> ...")
            network = torch.compile(model, dynamic=False, fullgraph=True)  # type: ignore[assignment]
        if group.size > 1:
            network = DistributedDataParallel(
                network,
                device_ids=[compute.device] if compute.device.type == "cuda" else None,
                gradient_as_bucket_view=True,
            )
        self._network = network

    def update(self, batch: ContextBatch, learning_rate: float, weight: float = 1.0) -> Tensor:
        """Make one update.

        Args:
            batch: Contexts of this process.
            learning_rate: Learning rate of the update.
            weight: Fraction of the update's steps that are in ``batch``, padding excluded; see `ProcessGroup.weight`.

        Returns:
            float32 ``[3]`` on the device: mean cross-entropy and action accuracy, both times ``weight``, so that their
            sums over the processes are those of the update; and the norm of the gradient before clipping, which is the
            same in all processes.
        """
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = learning_rate
        loss, accuracy = self._forward(self._network, batch)
        loss = loss * weight
        self.optimizer.zero_grad()
        # The gradients are averaged over the processes, but the loss of the update is the sum of their losses.
        (loss * self._group.size).backward()
        grad_norm = nn.utils.clip_grad_norm_(self.model.parameters(), self._grad_norm_clip)
        self.optimizer.step()
        return torch.stack([loss.detach(), accuracy * weight, grad_norm])

    @torch.no_grad()
    def validate(self, batch: ContextBatch) -> Tensor:
        """Return mean cross-entropy and action accuracy of a batch, float32 ``[2]`` on the device, without dropout."""
        self.model.eval()
        values = torch.stack(self._forward(self.model, batch))
        self.model.train()
        return values

    def _forward(self, network: nn.Module, batch: ContextBatch) -> tuple[Tensor, Tensor]:
        """Return mean cross-entropy and action accuracy of a batch, both scalars on the device."""
        with autocast(self._compute.device, self._compute.dtype):
            output = network(
                batch.states,
                batch.actions,
                batch.returns_to_go,
                batch.timesteps,
                batch.attention_mask,
                targets=batch.actions,
            )
        correct = (output.action_logits.detach().argmax(-1) == batch.actions) & batch.attention_mask
        return output.loss, correct.sum() / batch.attention_mask.sum()


def flops_per_context(config: ModelConfig, num_actions: int) -> int:
    """Return the floating-point operations of an update per context of K steps, forward and backward.

    As usual, a multiplication and an addition count as two operations, attention counts in full although half of it is
    masked, and element-wise operations do not count.
    """
    steps = config.context_length
    with FakeTensorMode(), FlopCounterMode(display=False) as counter:  # shapes without values
        model = DecisionTransformer(config, num_actions, max_timestep=0)
        states = torch.zeros(1, steps, 4, 84, 84, dtype=torch.uint8)
        indices = torch.zeros(1, steps, dtype=torch.int64)
        model(states, indices, torch.zeros(1, steps), indices, targets=indices).loss.backward()
    return int(counter.get_total_flops())
