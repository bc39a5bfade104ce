"""The names of the package `atari_dt.evaluation`."""

from atari_dt.evaluation.evaluator import evaluate, evaluate_policy, evaluate_random
from atari_dt.evaluation.gymnasium_policy import GymnasiumPolicy, load_policy
from atari_dt.evaluation.play_config import PlayConfig
from atari_dt.evaluation.results import EvaluatedEpisode, Evaluation, EvaluationResult
from atari_dt.evaluation.run_evaluation import evaluate_runs
from atari_dt.evaluation.scores import EvaluationScores, read_scores
from atari_dt.evaluation.target_returns import compute_target_returns
from atari_dt.policies.decision_transformer import DecisionTransformerPolicy
from atari_dt.policies.epsilon_greedy import EpsilonGreedyPolicy, RandomPolicy
from atari_dt.policies.protocol import PROTOCOLS, EvaluationProtocol
from atari_dt.policies.sampling import Sampling

__all__ = [
    "PROTOCOLS",
    "DecisionTransformerPolicy",
    "EpsilonGreedyPolicy",
    "EvaluatedEpisode",
    "Evaluation",
    "EvaluationProtocol",
    "EvaluationResult",
    "EvaluationScores",
    "GymnasiumPolicy",
    "PlayConfig",
    "RandomPolicy",
    "Sampling",
    "compute_target_returns",
    "evaluate",
    "evaluate_policy",
    "evaluate_random",
    "evaluate_runs",
    "load_policy",
    "read_scores",
]
