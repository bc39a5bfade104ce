"""Record an agent by its name: the one call behind every command that makes replay data."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from atari_dt.collection import policy_player
from atari_dt.collection.policies.policy import TrainedPolicy
from atari_dt.collection.recorder import RAM_SETTING, read_recorded_settings, read_recording, record
from atari_dt.collection.rollout import Player
from atari_dt.collection.scripted import ScriptedPlayer
from atari_dt.environment.config import EnvironmentConfig
from atari_dt.environment.python_env import action_meanings
from atari_dt.games.catalogue import Game
from atari_dt.player_config import PolicyPlayerConfig, PQNConfig
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
    epsilons: Sequence[float] | None = None,
    num_envs: int | None = None,
    device: str | None = None,
    num_workers: int | None = None,
    ram: bool | None = None,
    run: int = 1,
    resume: bool = False,
    show_progress: bool = True,
) -> list[BufferSidecar]:
    """Record an agent as a replay log in ``out/{Game}/{run}/replay_logs``; see `record`.

    Set the environment variable ``OMP_WAIT_POLICY`` to ``passive`` before PyTorch is imported: its idle threads then
    leave the cores to the emulators.

    Args:
        game: The game.
        agent: ``"q_learning"`` for a network that learns the game while it is recorded, ``"scripted"`` for policies
            that read the emulator's RAM, ``"hub"`` for trained agents, or the name of a function that makes a policy,
            such as ``"package.module:function"``.
        out: Directory of recordings.
        num_steps: Rows of the log.
        seed: Seed of the player and the environments.
        environment: Settings of the environments; by default those of the DQN-replay dataset.
        learning: Settings of q_learning; by default those of `PQNConfig`.
        policies: Names of the trained agents of hub: repositories on the Hugging Face Hub, and files; see
            `load_policies`. A resumed recording plays the commit of a repository that it has played so far.
        epsilons: Probabilities of a random action, for hub and functions; by default those of `PolicyPlayerConfig`.
        num_envs: Number of environments, for hub and functions; by default that of `PolicyPlayerConfig`.
        device: Device of the networks of hub; by default a GPU if there is one.
        num_workers: Number of worker processes of scripted; by default one per core.
        ram: Whether to record the emulator's RAM beside the frames. The environments of all agents but scripted are
            then stepped in Python, which takes longer. By default, a resumed recording goes on as it began, and a new
            one has RAM if it is of scripted.
        run: Index of the recording among those of the game.
        resume: Continue after the last complete buffer, or start if there is no recording.
        show_progress: Whether to print the names of the trained agents, and a progress bar, on standard error.

    Returns:
        The sidecars of all buffers.

    Raises:
        InputError: If there is no such agent, it cannot play the game, a parameter is out of range, or the recording
            exists or was made with other settings.
        OSError: If writing fails.
    """
    environment = environment or EnvironmentConfig()
    given = {
        "learning": learning,
        "policies": policies or None,
        "epsilons": epsilons,
        "num_envs": num_envs,
        "device": device,
        "num_workers": num_workers,
    }
    _check_parameters(agent, [name for name, value in given.items() if value is not None])
    if ram is None:
        recorded = read_recorded_settings(out / game.name / str(run)) if resume else None
        ram = agent == "scripted" if recorded is None else bool(recorded.get(RAM_SETTING))
    make_player: Callable[[], Player]
    if agent == "scripted":
        settings: dict[str, Scalar] = {}
        make_player = partial(ScriptedPlayer, game, environment, seed, num_workers, ram)
    elif agent == "q_learning":
        from atari_dt.collection import pqn

        learning = learning or PQNConfig()
        settings = pqn.recorded_settings(learning)
        make_player = partial(pqn.PQNPlayer, game, environment, num_steps, learning, seed, ram)
    else:
        config = PolicyPlayerConfig()
        if epsilons is not None:
            config = dataclasses.replace(config, epsilons=tuple(epsilons))
        if num_envs is not None:
            config = dataclasses.replace(config, num_envs=num_envs)
        from atari_dt.collection.policies import loading

        num_actions = len(action_meanings(game, environment))
        if agent == "hub":
            if resume:
                policies = _add_recorded_commits(policies, out / game.name / str(run))
            trained = loading.load_policies(policies, game, num_actions, device or "auto")
        else:
            trained = [loading.load_function(agent, game, num_actions)]
        settings = policy_player.recorded_settings(trained, config)
        make_player = partial(_make_policy_player, game, environment, trained, config, seed, ram, show_progress)
    if ram:
        settings[RAM_SETTING] = True

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


def _add_recorded_commits(policies: Sequence[str], directory: Path) -> list[str]:
    """Return the names of policies, with the commits that a recording names for repositories without a revision."""
    buffers = read_recording(directory)
    settings = buffers[0].recording.settings if buffers else {}
    recorded = [str(settings.get(f"policy_{index}")) for index in range(len(policies))]
    return [
        with_commit if with_commit.partition("@")[0] == name else name
        for name, with_commit in zip(policies, recorded, strict=True)
    ]


def _make_policy_player(
    game: Game,
    environment: EnvironmentConfig,
    policies: Sequence[TrainedPolicy],
    config: PolicyPlayerConfig,
    seed: int,
    ram: bool,
    show_progress: bool,
) -> Player:
    """Say who is about to play, and return the player."""
    if show_progress:
        for policy in policies:
            print(f"playing {policy.name}", file=sys.stderr)
    return policy_player.PolicyPlayer(game, environment, policies, config, seed, ram)


def _check_parameters(agent: str, names: Sequence[str]) -> None:
    """Check that there can be such an agent, and that the parameters of some agents that were given apply to it.

    Raises:
        InputError: If not.
    """
    description, own_parameters = _PARAMETERS.get(agent, (agent, ("epsilons", "num_envs")))
    if agent not in _PARAMETERS and ":" not in agent:
        raise InputError(
            f"there is no agent {agent!r}; set `agent` to q_learning, scripted, hub, or the name of a function that "
            "makes a policy, such as package.module:function"
        )
    if "num_workers" in names and agent != "scripted":
        raise InputError(
            "`num_workers` applies to scripted players only; set the number of environments with `num_envs`"
        )
    if others := [f"`{name}`" for name in names if name not in own_parameters]:
        raise InputError(f"some parameters do not apply to {description}; leave them out: {', '.join(others)}")
    if agent == "hub" and "policies" not in names:
        raise InputError(
            "hub plays trained agents; name them with `policies`, such as sb3/dqn-BreakoutNoFrameskip-v4 or a zip file"
        )


_PARAMETERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "q_learning": ("q_learning", ("learning",)),
    "scripted": ("scripted players", ("num_workers",)),
    "hub": ("hub", ("policies", "epsilons", "num_envs", "device")),
}
"""By agent: its name in messages, and those parameters of `record_agent` that apply to it, but not to all agents."""
