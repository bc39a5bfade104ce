"""The names of the package `atari_dt.model`."""

from atari_dt.model.checkpoint_config import CheckpointConfig
from atari_dt.model.dataset_info import DatasetInfo
from atari_dt.model.decision_transformer import DecisionTransformer, DecisionTransformerOutput
from atari_dt.model.pretrained import PretrainedModel, latest_checkpoint
from atari_dt.model.q_network import QNetwork
from atari_dt.model.reported_evaluation import ReportedEvaluation

__all__ = [
    "CheckpointConfig",
    "DatasetInfo",
    "DecisionTransformer",
    "DecisionTransformerOutput",
    "PretrainedModel",
    "QNetwork",
    "ReportedEvaluation",
    "latest_checkpoint",
]
