"""From contexts to a trained model."""

from atari_dt.training.batches import ContextBatch, ContextLoader
from atari_dt.training.trainer import train

__all__ = ["ContextBatch", "ContextLoader", "train"]
