"""One update of a model."""

from __future__ import annotations

from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.parallel import DistributedDataParallel
from torch.utils.flop_counter import FlopCounterMode

from atari_dt.config import TrainingConfig
from atari_dt.hardware import Compute, autocast
from atari_dt.method_config import MethodConfig
from atari_dt.methods.registry import find_method
from atari_dt.model.checkpoint_config import CheckpointConfig
from atari_dt.model.pretrained import PretrainedModel
from atari_dt.training.cuda_graph import GraphedUpdate
from atari_dt.training.distributed import ProcessGroup
from atari_dt.training.optimizer import make_optimizer
from replay_data.observation import FRAMES, ObservationSpec


class Learner:
    """Trains a model, one update at a time. No update waits for the device.

    If the network is compiled, it is compiled for full batches; the smaller one at the end of an epoch takes the code
    that is not compiled. On a single GPU, a compiled update is replayed as a CUDA graph.

    Args:
        model: Model, on the device of ``compute``.
        config: Config of the training; ``batch_size`` counts the windows of all processes together.
        compute: Device, type of the forward pass, and compilation. Weights and optimizer states are float32.
        group: Processes that train together; their gradients are averaged.

    Attributes:
        model: Model.
        objective: Objective that trains the model.
        optimizer: Optimizer of the model.
        metrics: Names of the values that `update` returns, fields of `MetricsLine`.
    """

    def __init__(self, model: PretrainedModel, config: TrainingConfig, compute: Compute, group: ProcessGroup):
        self.model = model
        self.objective = find_method(model.config).make_objective(model, config.seed).to(compute.device).train()
        graphed = compute.compiled and compute.device.type == "cuda" and group.size == 1
        self.optimizer = make_optimizer(model, config, capturable=graphed)
        self.metrics = (*self.objective.metrics, "grad_norm")
        self._compute, self._group = compute, group
        self._grad_norm_clip = torch.inf if config.grad_norm_clip is None else config.grad_norm_clip
        network: nn.Module = self.objective
        if compute.compiled:
            # einops registers a tensor type at its first use, and the compiled code depends on the registered types.
            for tensor in (next(model.parameters()), torch.zeros(1)):
                rearrange(tensor, "... -> ...")
            network = torch.compile(self.objective, dynamic=False, fullgraph=True)  # type: ignore[assignment]
        if group.size > 1:
            network = DistributedDataParallel(
                network,
                device_ids=[compute.device] if compute.device.type == "cuda" else None,
                gradient_as_bucket_view=True,
                broadcast_buffers=False,  # all processes have the same
            )
        self._network = network
        self._num_windows = len(range(group.rank, config.batch_size, group.size))
        self._graphed_update = GraphedUpdate(self._update, self.optimizer, compute.device) if graphed else None

    def update(self, batch: Any, update: int, learning_rate: float, weight: float = 1.0) -> Tensor:
        """Make one update.

        Args:
            batch: Batch of this process.
            update: Number of updates made before.
            learning_rate: Learning rate of the update.
            weight: Fraction of the update's actions that are in ``batch``, padding excluded; see
                `ProcessGroup.weight`.

        Returns:
            float32 ``[len(metrics)]`` on the device: the metrics of the objective times ``weight``, so that their sums
            over the processes are those of the update; and the norm of the gradient before clipping, which is the same
            in all processes.
        """
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = learning_rate
        self.objective.prepare(update)
        if self._compute.compiled and len(batch.actions) < self._num_windows:
            with torch.compiler.set_stance("force_eager"):
                return self._update(batch, weight)
        return self._update(batch, weight) if self._graphed_update is None else self._graphed_update(batch)

    def _update(self, batch: Any, weight: float = 1.0) -> Tensor:
        """Make an update at the learning rate of the optimizer; see `update`."""
        with autocast(self._compute.device, self._compute.dtype):
            values = self._network(batch)
        values = values * weight
        self.optimizer.zero_grad()
        # The gradients are averaged over the processes, but the loss of the update is the sum of their losses.
        (values[0] * self._group.size).backward()
        grad_norm = nn.utils.clip_grad_norm_(self.model.parameters(), self._grad_norm_clip)
        self.optimizer.step()
        return torch.cat([values.detach(), grad_norm[None]])

    @torch.no_grad()
    def validate(self, batch: Any) -> Tensor:
        """Return validation loss and action accuracy of a batch, float32 ``[2]`` on the device, without dropout."""
        self.objective.eval()
        with autocast(self._compute.device, self._compute.dtype):
            values = self.objective(batch)
        self.objective.train()
        names = self.objective.metrics
        return torch.stack(
            [values[names.index(self.objective.validation_loss)], values[names.index("action_accuracy")]]
        )


def flops_per_window(config: MethodConfig, num_actions: int, observation: ObservationSpec = FRAMES) -> int:
    """Return the floating-point operations of an update per context or transition, forward and backward.

    As usual, a multiplication and an addition count as two operations, attention counts in full although half of it is
    masked, and element-wise operations do not count.
    """
    method = find_method(config)
    with FakeTensorMode(), FlopCounterMode(display=False) as counter:  # shapes without values
        model = method.network.from_config(
            CheckpointConfig(config, num_actions, max_timestep=0, observation=observation)
        )
        method.make_objective(model, seed=0)(method.example_batch(config, observation))[0].backward()
    return int(counter.get_total_flops())
