"""From a trained model to episodes played under a target return, and what they say."""

from atari_dt.evaluation.conditioning import dataset_of, target_returns
from atari_dt.evaluation.evaluator import (
    EpisodeRecord,
    EvaluationResult,
    evaluate,
    evaluate_policy,
    evaluate_random,
)
from atari_dt.evaluation.policy import (
    DecisionTransformerPolicy,
    GymnasiumPolicy,
    RandomPolicy,
    Sampling,
    load_policy,
)
from atari_dt.evaluation.protocol import PROTOCOLS, EvaluationProtocol

__all__ = [
    "PROTOCOLS",
    "DecisionTransformerPolicy",
    "EpisodeRecord",
    "EvaluationProtocol",
    "EvaluationResult",
    "GymnasiumPolicy",
    "RandomPolicy",
    "Sampling",
    "dataset_of",
    "evaluate",
    "evaluate_policy",
    "evaluate_random",
    "load_policy",
    "target_returns",
]
