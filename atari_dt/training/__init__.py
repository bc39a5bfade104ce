"""From contexts to a trained model."""

from atari_dt.training.batches import ContextBatch, ContextLoader, ContextOrder
from atari_dt.training.trainer import TrainingStopped, train, training_windows

__all__ = ["ContextBatch", "ContextLoader", "ContextOrder", "TrainingStopped", "train", "training_windows"]
