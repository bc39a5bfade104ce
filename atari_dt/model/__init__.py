"""The network: tokens in, action logits out."""

from atari_dt.model.decision_transformer import (
    DatasetInfo,
    DecisionTransformer,
    DecisionTransformerOutput,
    latest_checkpoint,
)

__all__ = ["DatasetInfo", "DecisionTransformer", "DecisionTransformerOutput", "latest_checkpoint"]
