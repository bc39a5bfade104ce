"""Conservative Q-learning on QR-DQN (Kumar et al. 2020, arXiv:2006.04779)."""

from __future__ import annotations

from torch import Tensor

from atari_dt.method_config import CQLConfig
from atari_dt.methods.qrdqn import QuantileObjective
from atari_dt.methods.value_based import ValueMethod


class ConservativeObjective(QuantileObjective):
    """QR-DQN's loss plus alpha times the conservative term of CQL(H) (equation 4, for discrete actions)."""

    def regularizer(self, estimates: Tensor, chosen: Tensor) -> Tensor:
        """Return alpha times the conservative term."""
        assert isinstance(self.config, CQLConfig)
        return self.config.alpha * conservative_term(estimates.mean(-1), chosen.mean(-1))


def conservative_term(q_values: Tensor, chosen: Tensor) -> Tensor:
    """Return the mean of ``logsumexp(Q(s, ·)) - Q(s, a)``, which is large where actions outside the data look good.

    Args:
        q_values: Q of all actions, float32 ``[B, num_actions]``.
        chosen: Q of the action in the data, float32 ``[B]``.

    Returns:
        Scalar, at least 0.
    """
    return (q_values.logsumexp(-1) - chosen).mean()


CQL = ValueMethod(ConservativeObjective)
