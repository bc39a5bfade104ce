"""What reports say about the origin of training data."""

from __future__ import annotations

import pytest

from atari_dt.experiments.data_origin import describe_origins, describe_source, is_dqn_replay, name_origin
from replay_data.json_fields import Scalar
from replay_data.recording import Recording
from replay_data.store_metadata import StoreSource

STICKY = "made with sticky actions of probability 0.25"
BY_HERE = f"recorded with this project, {STICKY}, seed 7"


def recorded(agent: str, **settings: Scalar) -> StoreSource:
    recording = Recording(agent, "Breakout", 1000, 7, 0.25, 108_000, ("NOOP",), "y" * 64, settings)
    return StoreSource("dopamine", 1, {"method": "even"}, recording)


SOURCES: list[tuple[StoreSource, float | None, str, bool]] = [
    (recorded("q_learning"), 0.25, f"played by a Q-learning agent, {BY_HERE} (selection: even)", False),
    (recorded("scripted"), 0.25, f"played by scripted players, {BY_HERE} (selection: even)", False),
    (StoreSource("scripted", details={"seed": 7}), 0.25, f"played by scripted players, {BY_HERE}", False),
    (
        recorded("hub", policy_0="sb3/a", policy_0_digest="z", policy_1="b.zip", num_envs=4),
        0.25,
        f"played by trained agents from the Hugging Face Hub or files, {BY_HERE}: sb3/a, b.zip (selection: even)",
        False,
    ),
    (recorded("my.module:make"), 0.25, f"played by a policy of my.module:make, {BY_HERE} (selection: even)", False),
    (
        StoreSource("rl_unplugged", 2, {"method": "all"}),
        0.25,
        f"from RL Unplugged (the experience of the DQN-replay dataset), {STICKY}, run 2 (selection: all)",
        True,
    ),
    (
        StoreSource("dopamine", 3, {"method": "corrected"}),
        0.25,
        f"from a replay log in the format of the DQN-replay dataset, {STICKY}, run 3 (selection: corrected)",
        True,
    ),
    (StoreSource("jat"), 0.0, "from the JAT dataset (expert play), made without sticky actions", False),
    (StoreSource("minari"), None, "from a Minari dataset, with unknown sticky actions", False),
    (
        StoreSource("random"),
        0.1,
        "from a source in the format 'random', made with sticky actions of probability 0.1",
        False,
    ),
    (
        StoreSource("store", selection={"method": "top"}, origin=recorded("q_learning")),
        0.25,
        f"played by a Q-learning agent, {BY_HERE} (selection: even, then top)",
        False,
    ),
    (
        StoreSource(
            "store", selection={"method": "top"}, origin=StoreSource("store", origin=StoreSource("rl_unplugged", 2))
        ),
        0.25,
        f"from RL Unplugged (the experience of the DQN-replay dataset), {STICKY}, run 2 (selection: top)",
        True,
    ),
]


@pytest.mark.parametrize(("source", "sticky_actions", "description", "is_replay"), SOURCES)
def test_a_description_names_players_run_and_selection(
    source: StoreSource, sticky_actions: float | None, description: str, is_replay: bool
) -> None:
    assert describe_source(source, sticky_actions) == description
    assert is_dqn_replay(source) == is_replay


def test_the_name_of_an_origin_is_that_of_the_option() -> None:
    names = [name_origin(source) for source, *_ in SOURCES]
    assert names[:4] == ["q_learning", "scripted", "scripted", "hub"]
    assert names[5:8] == ["rl_unplugged", "dopamine", "jat"]
    assert names[-2:] == ["q_learning", "rl_unplugged"]


def test_a_caption_names_the_origin_of_each_game_once() -> None:
    jat = StoreSource("jat")
    origins = [("Pong", jat, 0.0), ("Breakout", recorded("scripted"), 0.25), ("Qbert", jat, 0.0), ("Pong", jat, 0.0)]
    assert describe_origins(origins) == (
        "Training data of Pong, Qbert: from the JAT dataset (expert play), made without sticky actions; of Breakout: "
        f"played by scripted players, recorded with this project, {STICKY}."
    )
