"""Record an agent by its name: the one call behind every command that makes replay data."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from atari_dt.collection.recorder import record
from atari_dt.collection.rollout import Player
from atari_dt.collection.scripted import ScriptedPlayer
from atari_dt.config import DEFAULT_EPSILONS, PQNConfig
from atari_dt.environment.config import EnvironmentConfig
from atari_dt.games.catalogue import Game
from replay_data import InputError
from replay_data.json_fields import Scalar
from replay_data.sources.dopamine_sidecar import BufferSidecar


def record_agent(
    game: Game,
    agent: str,
    out: Path,
    *,
    num_steps: int,
    seed: int = 0,
    environment: EnvironmentConfig | None = None,
    learning: PQNConfig | None = None,
    policies: Sequence[str] = (),
    epsilons: Sequence[float] = DEFAULT_EPSILONS,
    num_envs: int = 32,
    device: str = "auto",
    num_workers: int | None = None,
    run: int = 1,
    resume: bool = False,
    show_progress: bool = True,
) -> list[BufferSidecar]:
    """Record an agent as a replay log in ``out/{Game}/{run}/replay_logs``; see `record`.

    PyTorch's idle threads take time from the emulators unless ``OMP_WAIT_POLICY`` is ``passive`` in the environment when
    PyTorch is imported.

    Args:
        game: The game.
        agent: ``"q_learning"`` for a network that learns the game while it is recorded, ``"scripted"`` for policies that
            read the emulator's RAM, ``"hub"`` for trained agents, or a function such as ``"package.module:function"``
            that makes a policy.
        out: Directory of recordings.
        num_steps: Rows of the log.
        seed: Seed of the player and the environments.
        environment: Settings of the environments; by default those of the DQN-replay dataset.
        learning: Settings of q_learning; by default `PQNConfig`'s.
        policies: Names of the trained agents, for hub: repositories on the Hugging Face Hub and files; see
            `load_policies`.
        epsilons: Probabilities of a random action, for hub and functions; see `PolicyPlayer`.
        num_envs: Number of environments, for hub and functions.
        device: Device of the trained agents' networks, for hub.
        num_workers: Number of worker processes, for scripted; by default one per core.
        run: Index of the recording among those of the game.
        resume: Continue after the last complete buffer, or start if there is no recording.
        show_progress: Whether to print the names of the trained agents and a progress bar on standard error.

    Returns:
        The sidecars of all buffers.

    Raises:
        InputError: If there is no such agent, it cannot play the game, a parameter is out of range, or the recording
            exists or was made with other settings.
        OSError: If writing fails.
    """
    environment = environment or EnvironmentConfig()
    settings: dict[str, Scalar] = {}
    make_player: Callable[[], Player]
    if agent == "q_learning":
        from atari_dt.collection.pqn import PQNPlayer, recorded_settings

        config = learning or PQNConfig()
        settings = recorded_settings(config)

        def make_player() -> Player:
            return PQNPlayer(game, environment, num_steps, config, seed)

    elif agent == "scripted":

        def make_player() -> Player:
            return ScriptedPlayer(game, environment, seed, num_workers)

    else:
        raise InputError(f"there is no agent {agent!r}")
    return record(
        game,
        make_player,
        out,
        agent=agent,
        num_steps=num_steps,
        environment=environment,
        seed=seed,
        settings=settings,
        run=run,
        resume=resume,
        show_progress=show_progress,
    )
