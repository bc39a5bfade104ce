"""Who played the episodes that models were trained on, as sentences for reports."""

from __future__ import annotations

from collections.abc import Iterable

from replay_data.recording import Recording
from replay_data.store_metadata import StoreSource

_PLAYERS = {
    "q_learning": "a Q-learning agent",
    "scripted": "scripted players",
    "hub": "trained agents from the Hugging Face Hub or files",
}
"""Description of each agent of `Recording.agent`; any other is a function that makes a policy."""


def name_origin(source: StoreSource) -> str:
    """Return the agent that this project recorded, such as ``"q_learning"``, or else the source format.

    For a store that was selected from other stores, this is the origin of the first one.
    """
    first = source.first_origin
    return first.format if first.recording is None else first.recording.agent


def is_dqn_replay(source: StoreSource) -> bool:
    """Return whether the episodes are those of the DQN-replay dataset, or in its format and of unknown players."""
    return name_origin(source) in ("dopamine", "rl_unplugged")


def describe_origin(source: StoreSource, sticky_actions: float | None) -> str:
    """Return a phrase that says who played, such as ``"from RL Unplugged"``, and with which sticky actions.

    Args:
        source: Origin of the episodes.
        sticky_actions: Probability with which the environment repeated the previous action; None if it is unknown.
    """
    first = source.first_origin
    if first.recording is not None or first.format == "scripted":
        player = _describe_player(first.recording)
        phrase = f"played by {player}, recorded with this project"
    else:
        phrase = {
            "rl_unplugged": "from RL Unplugged (the experience of the DQN-replay dataset)",
            "dopamine": "from a replay log in the format of the DQN-replay dataset",
            "jat": "from the JAT dataset (expert play)",
            "minari": "from a Minari dataset",
        }.get(first.format, f"from a source in the format {first.format!r}")
    return phrase + _describe_sticky_actions(sticky_actions)


def describe_source(source: StoreSource, sticky_actions: float | None) -> str:
    """Return `describe_origin` with what identifies the run, and how its episodes were selected."""
    first = source.first_origin
    details = []
    if first.recording is not None:
        policies = ", ".join(first.recording.policies)
        details = [f"seed {first.recording.seed}" + (f": {policies}" if policies else "")]
    elif first.format == "scripted":
        details = [f"seed {first.details.get('seed')}"]
    elif first.format in ("rl_unplugged", "dopamine"):
        details = [f"run {first.run}"]
    selections = [str(each.selection["method"]) for each in source.origins if "method" in each.selection]
    phrase = ", ".join([describe_origin(source, sticky_actions), *details])
    return phrase + (f" (selection: {', then '.join(selections)})" if selections else "")


def describe_origins(origins: Iterable[tuple[str, StoreSource, float | None]]) -> str:
    """Return a sentence that names the origin of the data of each game, for the captions of tables and figures.

    Args:
        origins: Name of the game, origin and sticky actions of each dataset.
    """
    games: dict[str, dict[str, None]] = {}
    for game, source, sticky_actions in origins:
        games.setdefault(describe_origin(source, sticky_actions), {})[game] = None
    parts = [f"of {', '.join(names)}: {phrase}" for phrase, names in games.items()]
    return f"Training data {'; '.join(parts)}."


def _describe_player(recording: Recording | None) -> str:
    agent = "scripted" if recording is None else recording.agent
    return _PLAYERS.get(agent, f"a policy of {agent}")


def _describe_sticky_actions(sticky_actions: float | None) -> str:
    """Return what to add about sticky actions."""
    if sticky_actions is None:
        return ", with unknown sticky actions"
    if sticky_actions == 0:
        return ", made without sticky actions"
    return f", made with sticky actions of probability {sticky_actions:g}"
