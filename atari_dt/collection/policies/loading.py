"""Turn names of trained agents into policies."""

from __future__ import annotations

from collections.abc import Sequence

from atari_dt.collection.policies.policy import TrainedPolicy
from atari_dt.games.catalogue import Game


def load_policies(names: Sequence[str], game: Game, num_actions: int, device: str = "auto") -> list[TrainedPolicy]:
    """Load agents of Stable-Baselines3.

    Args:
        names: Files of `BaseAlgorithm.save`, such as ``"dqn.zip"``, and repositories on the Hugging Face Hub, such as
            ``"sb3/dqn-BreakoutNoFrameskip-v4"``, or ``"owner/name@revision"`` for a branch, a tag or a commit.
        game: The game that the agents shall play.
        num_actions: Size of the game's minimal action set.
        device: Device of the networks; see `find_device`.

    Returns:
        The policies, in the order of their names. The name of one from the Hub contains its commit.

    Raises:
        InputError: If an agent cannot be read, or is made for another game, action set, observation or algorithm.
    """
    raise NotImplementedError


def load_function(name: str, game: Game, num_actions: int) -> TrainedPolicy:
    """Load a policy that a function makes.

    Args:
        name: The function, such as ``"package.module:function"``.
        game: The game that the policy shall play.
        num_actions: Size of the game's minimal action set.

    Raises:
        InputError: If there is no such function, or it fails.
    """
    raise NotImplementedError
