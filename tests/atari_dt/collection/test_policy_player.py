"""The player of trained policies, against the emulator itself and the plan of its episodes."""

from __future__ import annotations

import re
import signal
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import ale_py
import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch
from ale_py import roms

from atari_dt.collection.agents import record_agent
from atari_dt.collection.policies import loading
from atari_dt.collection.policies.policy import TrainedPolicy
from atari_dt.collection.policy_player import PolicyPlayer, recorded_settings
from atari_dt.collection.rollout import FinishedEpisode
from atari_dt.environment.config import EnvironmentConfig, Frames
from atari_dt.games.catalogue import find_game
from atari_dt.player_config import PolicyPlayerConfig, PQNConfig
from replay_data import InputError
from replay_data.episode import Episode
from tests.atari_dt.collection.policies.saved_agents import write_agent
from tests.atari_dt.collection.recordings import read_episodes

FIRE, RIGHT = 1, 2


def hold_right(observations: Frames) -> npt.NDArray[np.int64]:
    return np.full(len(observations), RIGHT)


def follow_pixels(observations: Frames) -> npt.NDArray[np.int64]:
    """Return actions that depend on all four frames of a state."""
    return (observations.astype(np.int64).sum((2, 3)) @ [1, 2, 3, 5]) // 7 % 4


FIRING = TrainedPolicy("firing.zip", "0123", True, hold_right)
MOVING = TrainedPolicy("moving:policy", "", False, follow_pixels)

EPSILONS = (1.0, 0.5, 0.9)


def make_player() -> PolicyPlayer:
    """Return a player of one policy of Breakout."""
    environment, config = EnvironmentConfig.with_max_steps(50), PolicyPlayerConfig(EPSILONS, num_envs=2)
    return PolicyPlayer(find_game("Breakout"), environment, [FIRING], config, seed=1)


def finished_episodes(player: PolicyPlayer, number: int) -> list[FinishedEpisode]:
    """Play until at least so many episodes were handed over."""
    episodes: list[FinishedEpisode] = []
    for rollout in player.play():
        episodes += rollout.episodes
        if len(episodes) >= number:
            break
    return episodes


def stacked(frames: Frames) -> Frames:
    """Return the states of an episode, uint8 ``[T, 4, 84, 84]``."""
    padded = np.concatenate([np.zeros((3, 84, 84), np.uint8), frames])
    return np.stack([padded[step : step + 4] for step in range(len(frames))])


def replay(seed: int, sticky_actions: float, episodes: Sequence[Episode]) -> Iterator[npt.NDArray[np.int64]]:
    """Play recorded actions in ALE, one episode after another, and compare everything that it shows.

    Yields:
        The lives before each step of an episode, int64 ``[T]``.
    """
    ale = ale_py.ALEInterface()
    ale.setFloat("repeat_action_probability", sticky_actions)
    ale.setInt("random_seed", seed)
    ale.loadROM(Path(str(roms.get_rom_path("breakout"))))
    actions = ale.getMinimalActionSet()
    for episode in episodes:
        ale.reset_game()
        screens, lives = [ale.getScreenGrayscale()], []
        assert episode.raw_rewards is not None
        for frame, action, raw_reward in zip(episode.frames, episode.actions, episode.raw_rewards, strict=True):
            assert not ale.game_over()
            assert (frame == cv2.resize(np.max(screens, 0), (84, 84), interpolation=cv2.INTER_AREA)).all()
            lives.append(ale.lives())
            reward = 0
            for _ in range(4):
                reward += ale.act(actions[action])
                screens = [screens[-1], ale.getScreenGrayscale()]
                if ale.game_over():
                    break
            assert raw_reward == reward
        assert episode.terminated == ale.game_over()
        yield np.array(lives)


def test_a_log_replays_in_the_emulator_from_its_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Policies with and without FIRE, with and without random actions, in three environments of two groups."""
    monkeypatch.setattr(loading, "load_policies", lambda *_: [FIRING, MOVING])
    buffers = record_agent(
        find_game("Breakout"),
        "hub",
        tmp_path,
        num_steps=1250,
        environment=EnvironmentConfig.with_max_steps(300, sticky_actions=0.1),
        policies=("firing", "moving"),
        epsilons=(0, 0.5, 1),
        num_envs=3,
        show_progress=False,
    )
    details = [episode.details for buffer in buffers for episode in buffer.episodes]
    planned = [(index % 2, (0, 0.5, 1)[index // 2 % 3]) for index in range(len(details))]
    assert [(each["policy"], each["epsilon"]) for each in details] == planned
    of_env: dict[tuple[float, float], list[tuple[int, Episode]]] = defaultdict(list)
    for index, episode in enumerate(read_episodes(tmp_path)):
        of_env[details[index]["env_index"], details[index]["env_seed"]].append((index, episode))
    assert [env_index for env_index, _ in sorted(of_env)] == [0, 1, 2]
    ends, num_lost_lives = np.zeros(len(details)), 0
    for (_, seed), episodes in of_env.items():
        replayed = list(replay(int(seed), 0.1, [episode for _, episode in episodes]))
        ends[[index for index, _ in episodes]] = np.cumsum([len(lives) for lives in replayed])
        for (index, episode), lives in zip(episodes, replayed, strict=True):
            policy, epsilon = planned[index]
            lost_lives = 1 + np.flatnonzero((lives[1:] < lives[:-1]) & (lives[1:] > 0))
            num_lost_lives += len(lost_lives)
            pressed = np.zeros(len(episode) + 1, dtype=bool)
            for start in (0, *lost_lives):
                pressed[start : start + 2] = True
            expected = np.where(pressed[:-1], FIRE, RIGHT) if policy == 0 else follow_pixels(stacked(episode.frames))
            is_expected = episode.actions == expected
            if epsilon == 0:
                assert is_expected.all()
            elif policy == 0:  # no random action replaces FIRE
                assert is_expected[pressed[:-1]].all()
                assert is_expected[~pressed[:-1]].mean() == pytest.approx(1 - epsilon * 3 / 4, abs=0.15)
    assert num_lost_lives >= 5
    assert (np.diff(ends) < 0).any()  # some episodes ended before others that were started earlier


def test_fire_is_not_pressed_in_games_without_it() -> None:
    game, environment = find_game("MsPacman"), EnvironmentConfig.with_max_steps(40)  # action 1 is UP
    player = PolicyPlayer(game, environment, [FIRING], PolicyPlayerConfig((0.0,), 1), seed=0)
    assert all((finished.episode.actions == RIGHT).all() for finished in finished_episodes(player, 1))


def test_same_seed_gives_the_same_episodes_and_a_restored_player_continues() -> None:
    players = [make_player(), make_player()]
    first, same = (finished_episodes(player, 5) for player in players)
    pairs = list(zip(first, same, strict=True))
    assert all(a.details == b.details and a.episode.frames == b.episode.frames for a, b in pairs)
    assert all((a.episode.actions == b.episode.actions).all() for a, b in pairs)

    state = players[0].state()
    resumed = make_player()
    resumed.restore(state)
    assert resumed.state() == state
    later = finished_episodes(resumed, 2)
    assert [each.details["epsilon"] for each in later[:2]] == [EPSILONS[(len(first) + i) % 3] for i in range(2)]
    assert [each.details["env_index"] for each in later[:2]] == [0, 1]  # nothing is played again
    seeds = [{each.details["env_seed"] for each in episodes} for episodes in (first, later)]
    assert not seeds[0] & seeds[1]
    for damaged in (b"", b"{}", b'{"num_episodes": -1, "num_starts": 1}', b"[" * 100_000, b"\xff"):
        with pytest.raises(InputError, match="checkpoint is damaged"):
            resumed.restore(damaged)


def test_interrupts_during_steps_end_the_player() -> None:
    """ALE would wait forever for the end of a step that has been received, or to delete an environment during one."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    player, handler = make_player(), signal.signal(signal.SIGALRM, interrupt)
    try:
        for milliseconds in range(10, 13):
            rollouts = player.play()
            assert next(rollouts).num_steps == 64 * 2  # of both groups
            signal.setitimer(signal.ITIMER_REAL, milliseconds / 1000)
            with pytest.raises(KeyboardInterrupt):
                for _ in rollouts:
                    pass
    finally:
        signal.signal(signal.SIGALRM, handler)


def test_settings_name_each_policy_and_its_digest() -> None:
    assert recorded_settings([FIRING, MOVING], PolicyPlayerConfig((0, 0.25), 7)) == {
        "num_envs": 7,
        "epsilons": "0.0 0.25",
        "policy_0": "firing.zip",
        "policy_0_sha256": "0123",
        "policy_1": "moving:policy",
    }


def test_a_network_without_memory_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Advice follows.")

    [policy] = loading.load_policies([str(write_agent(tmp_path / "agent.zip"))], find_game("Breakout"), 4, "cpu")
    monkeypatch.setattr(torch.nn.Linear, "forward", fail)
    with pytest.raises(InputError, match="out of memory on cpu; lower `num_envs`"):
        policy.choose_actions(np.zeros((1, 4, 84, 84), np.uint8))


@pytest.mark.parametrize(
    ("agent", "arguments", "message"),
    [
        ("hub", {}, "name them with `policies`"),
        ("hub", {"policies": ["a.zip"], "epsilons": []}, "`epsilons` must name at least one probability"),
        ("hub", {"policies": ["a.zip"], "epsilons": [0, 1.5]}, "`epsilons` must be between 0 and 1, not 1.5"),
        ("hub", {"policies": ["a.zip"], "epsilons": [float("nan")]}, "`epsilons` must be between 0 and 1, not nan"),
        ("hub", {"policies": ["a.zip"], "num_envs": 0}, "`num_envs` must be between 1 and 1024, not 0"),
        ("hub", {"policies": ["a.zip"], "learning": PQNConfig()}, "do not apply to hub; leave them out: `learning`"),
        (
            "agents:make",
            {"policies": ["a.zip"], "device": "cpu"},
            "to agents:make; leave them out: `policies`, `device`",
        ),
        ("q_learning", {"epsilons": [0]}, "do not apply to q_learning; leave them out: `epsilons`"),
        ("scripted", {"num_envs": 4}, "do not apply to scripted players; leave them out: `num_envs`"),
        ("hub", {"policies": ["a.zip"], "num_workers": 2}, "`num_workers` applies to scripted players only"),
        ("dqn", {}, "there is no agent 'dqn'"),
    ],
)
def test_parameters_that_do_not_apply_are_refused(
    tmp_path: Path, agent: str, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        record_agent(find_game("Breakout"), agent, tmp_path / "new", num_steps=1000, **arguments)
    assert list(tmp_path.iterdir()) == []
