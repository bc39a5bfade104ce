"""From contexts to a trained model."""

from atari_dt.training.batches import ContextBatch, ContextLoader, ContextSampler
from atari_dt.training.interruption import TrainingStopped
from atari_dt.training.loop import train, training_windows

__all__ = ["ContextBatch", "ContextLoader", "ContextSampler", "TrainingStopped", "train", "training_windows"]
