"""From a trained model to episodes played under a target return."""

from atari_dt.evaluation.evaluator import EvaluationResult, dataset_of, evaluate, evaluate_policy, target_returns
from atari_dt.evaluation.policy import DecisionTransformerPolicy, RandomPolicy

__all__ = [
    "DecisionTransformerPolicy",
    "EvaluationResult",
    "RandomPolicy",
    "dataset_of",
    "evaluate",
    "evaluate_policy",
    "target_returns",
]
