"""The names of the package `atari_dt.training`."""

from atari_dt.batches.contexts import ContextBatch, ContextLoader
from atari_dt.batches.sampler import BatchSampler
from atari_dt.batches.transitions import TransitionBatch, TransitionLoader
from atari_dt.training.interruption import TrainingStopped
from atari_dt.training.loop import train
from atari_dt.training.metrics import MetricsLine, read_metrics
from atari_dt.training.training_run import TrainingRun, read_training_run
from atari_dt.training.windows import training_windows

__all__ = [
    "BatchSampler",
    "ContextBatch",
    "ContextLoader",
    "MetricsLine",
    "TrainingRun",
    "TrainingStopped",
    "TransitionBatch",
    "TransitionLoader",
    "read_metrics",
    "read_training_run",
    "train",
    "training_windows",
]
