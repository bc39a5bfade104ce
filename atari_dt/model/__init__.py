"""The network: tokens in, action logits out."""

from atari_dt.model.dataset_info import DatasetInfo
from atari_dt.model.decision_transformer import DecisionTransformer, DecisionTransformerOutput
from atari_dt.model.pretrained import latest_checkpoint

__all__ = ["DatasetInfo", "DecisionTransformer", "DecisionTransformerOutput", "latest_checkpoint"]
