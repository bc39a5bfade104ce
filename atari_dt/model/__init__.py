"""The network: tokens in, action logits out."""

from atari_dt.model.decision_transformer import DatasetInfo, DecisionTransformer, DecisionTransformerOutput
from atari_dt.model.pretrained import latest_checkpoint, load_model, save_model

__all__ = [
    "DatasetInfo",
    "DecisionTransformer",
    "DecisionTransformerOutput",
    "latest_checkpoint",
    "load_model",
    "save_model",
]
