"""Play trained policies of every skill: a player whose episodes go from the policies' best play to random play.

Each episode has a policy and an epsilon, the probability of a uniformly random action at each step. Episode i has
policy i mod P of P policies and epsilon (i div P) mod E of E values, so every combination comes up equally often.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count

import numpy as np
import numpy.typing as npt

from atari_dt.collection.policies.policy import TrainedPolicy
from atari_dt.collection.rollout import EpisodeAssembler, FinishedEpisode, Rollout, Steps
from atari_dt.collection.timer import ComponentTimer
from atari_dt.environment.config import EnvironmentConfig, Frames
from atari_dt.environment.vector_env import AutoresetVectorEnv, make_autoreset_env
from atari_dt.games.catalogue import Game
from atari_dt.player_config import PolicyPlayerConfig
from replay_data import InputError
from replay_data.json_fields import Scalar, parse_json, read_count

FIRE = 1  # its index in the minimal action set of every game in which Stable-Baselines3 can press it

FIRE_STEPS = 2
"""Steps after a reset or a lost life in which FIRE is pressed for a policy that needs it.

Stable-Baselines3 takes two steps from its agents as well: its `FireResetEnv` plays FIRE and action 2. With sticky
actions, the emulator ignores a press of four frames with probability 0.25**4, once in 256 lives. The agent would then
stand still until the time limit. It ignores two presses once in 65,536 lives.
"""

STEPS_PER_ROLLOUT = 64


class PolicyPlayer:
    """Plays trained policies in N parallel environments; a `Player`.

    Episodes are handed to the recorder in the order in which they were started. A recording is therefore the beginning
    of the sequence of all episodes, and bad, short episodes do not come up more often than good, long ones. A finished
    episode waits in memory, compressed, for those that were started before it. All that wait were started after the
    oldest episode in progress: of each environment, they have at most as many steps as the time limit allows.

    The environments form two groups. While the emulators play a step of one group, the policies choose the actions of
    the other. An environment is seeded once, when `play` starts, and then plays one episode after another. The details
    of an episode are:

    - ``policy``: index of its policy.
    - ``epsilon``: its probability of a random action.
    - ``env_index``: index of its environment.
    - ``env_seed``: seed of its environment. From this seed, the actions of all episodes with the same index and seed,
      in the order of the recording, give the same frames and rewards again.

    FIRE is pressed for the policies that need it, where the game has it, in the first two steps after a reset or a lost
    life. These actions are recorded like any other, and no random action replaces them. After a lost life, a policy
    sees the last frames of the life before; Stable-Baselines3 shows zeros to its agents instead.

    Args:
        game: The game.
        environment: Settings of the environments.
        policies: The policies, one or more.
        config: Settings of the player.
        seed: Seed of the environments and the random actions.
        ram: Whether to record the RAM too, which takes longer: the environments are then stepped in Python.
    """

    def __init__(
        self,
        game: Game,
        environment: EnvironmentConfig,
        policies: Sequence[TrainedPolicy],
        config: PolicyPlayerConfig,
        seed: int,
        ram: bool = False,
    ):
        self._policies, self._config, self._seed = tuple(policies), config, seed
        half = config.num_envs // 2
        self._envs = [
            make_autoreset_env(game, num_envs, environment, ram)
            for num_envs in (config.num_envs - half, half)
            if num_envs
        ]
        self._num_episodes = self._num_starts = 0

    def play(self) -> Generator[Rollout, None, None]:
        """Play without end; yield a rollout after every 64 steps.

        Raises:
            InputError: If a policy fails.
        """
        seeds = np.random.SeedSequence([self._seed, self._num_starts]).generate_state(self._config.num_envs + 1)
        env_seeds, rng = (seeds[:-1] >> 1).astype(np.int64), np.random.default_rng(seeds[-1])
        self._num_starts += 1
        plan = _plan_episodes(len(self._policies), self._config.epsilons, self._num_episodes)
        waiting: dict[int, FinishedEpisode] = {}  # by their indices in the recording
        timer = ComponentTimer("emulator", "network", "recorder")
        # ALE hangs if an environment is deleted during a step, or asked twice for the end of one. Therefore a thread,
        # which no signal interrupts, begins and ends each step; leaving the block waits for it.
        with ThreadPoolExecutor(len(self._envs)) as executor:
            groups, start = [], 0
            for env in self._envs:
                span = range(start, start + env.num_envs)
                seeds_of_group = env_seeds[span.start : span.stop]
                groups.append(_EnvGroup(env, self._policies, plan, span, seeds_of_group, rng, executor))
                start = span.stop
            while True:
                finished = [each for group in groups if (each := group.step(timer)) is not None]
                if not finished:
                    continue
                for each in finished:
                    waiting |= each
                episodes = []
                while self._num_episodes in waiting:
                    episodes.append(waiting.pop(self._num_episodes))
                    self._num_episodes += 1
                yield Rollout(episodes, STEPS_PER_ROLLOUT * self._config.num_envs, timer.shares())
                timer = ComponentTimer("emulator", "network", "recorder")

    def state(self) -> bytes:
        """Return the number of episodes handed over and the number of starts.

        The environments and the random generator are not part of the state: `play` starts new ones.
        """
        return json.dumps({"num_episodes": self._num_episodes, "num_starts": self._num_starts}).encode()

    def restore(self, state: bytes) -> None:
        """Continue with the episode after the last one that was handed over.

        Raises:
            InputError: If the state is damaged.
        """
        try:
            content = parse_json(state)
            self._num_episodes, self._num_starts = (
                read_count(content, name) for name in ("num_episodes", "num_starts")
            )
        except (ValueError, KeyError, TypeError) as error:
            raise InputError("the player's checkpoint is damaged; the recording cannot be resumed") from error


def recorded_settings(policies: Sequence[TrainedPolicy], config: PolicyPlayerConfig) -> dict[str, Scalar]:
    """Return the settings that a recording keeps: those of the player, and each policy's name and digest."""
    settings: dict[str, Scalar] = {
        "num_envs": config.num_envs,
        "epsilons": " ".join(str(float(epsilon)) for epsilon in config.epsilons),
    }
    for index, policy in enumerate(policies):
        settings[f"policy_{index}"] = policy.name
        if policy.digest:
            settings[f"policy_{index}_sha256"] = policy.digest
    return settings


@dataclass(frozen=True)
class _PlannedEpisode:
    """What is known of an episode before it starts.

    Attributes:
        index: Index among the episodes of the recording.
        policy: Index of its policy.
        epsilon: Probability of a random action.
    """

    index: int
    policy: int
    epsilon: float


def _plan_episodes(num_policies: int, epsilons: Sequence[float], first: int) -> Iterator[_PlannedEpisode]:
    """Yield episodes ``first``, ``first + 1``, … without end."""
    for index in count(first):
        yield _PlannedEpisode(index, index % num_policies, epsilons[index // num_policies % len(epsilons)])


class _EnvGroup:
    """N environments that step together. Each plays one planned episode after another.

    Args:
        env: The environments.
        policies: All policies.
        plan: Plans of the next episodes, shared by all groups.
        env_indices: Indices of the environments, ``[N]``.
        env_seeds: Their seeds, int64 ``[N]``.
        rng: Generator of random actions, shared by all groups.
        executor: Thread that steps the environments.

    Attributes:
        num_envs: N.
    """

    def __init__(
        self,
        env: AutoresetVectorEnv,
        policies: Sequence[TrainedPolicy],
        plan: Iterator[_PlannedEpisode],
        env_indices: range,
        env_seeds: npt.NDArray[np.int64],
        rng: np.random.Generator,
        executor: Executor,
    ):
        self.num_envs = env.num_envs
        self._env, self._policies, self._plan, self._rng = env, policies, plan, rng
        self._executor = executor
        self._env_indices, self._env_seeds = env_indices, env_seeds
        has_fire = len(env.action_meanings) >= 3 and env.action_meanings[FIRE] == "FIRE"
        self._needs_fire = np.array([policy.needs_fire and has_fire for policy in policies])
        self._policy = np.zeros(self.num_envs, dtype=np.int64)  # of each environment's episode in progress
        self._epsilon = np.zeros(self.num_envs)
        self._fire_steps = np.zeros(self.num_envs, dtype=np.int64)  # steps in which FIRE will be pressed
        self._episodes: list[deque[_PlannedEpisode]] = [deque() for _ in range(self.num_envs)]  # not yet assembled
        self._assembler = EpisodeAssembler(self.num_envs)
        self._states = env.reset(env_seeds)
        self._steps, self._num_steps = self._empty_steps(), 0
        self._lives = env.lives  # before the step in progress
        self._step_in_progress: Future[tuple[Frames, npt.NDArray[np.float32], npt.NDArray[np.bool_]]] | None = None
        self._start_episodes(np.arange(self.num_envs))

    def step(self, timer: ComponentTimer) -> dict[int, FinishedEpisode] | None:
        """Wait for the end of the step in progress, and begin the next one.

        Returns:
            After every 64 steps, the episodes that ended in them, by their indices in the recording; otherwise None.
        """
        if self._step_in_progress is not None:
            with timer.time("emulator"):
                self._end_step(*self._step_in_progress.result())
        complete = None
        if self._num_steps == STEPS_PER_ROLLOUT:
            complete = self._steps
            self._steps, self._num_steps = self._empty_steps(), 0
        with timer.time("recorder"):
            self._steps.set_observations(self._num_steps, self._states[:, -1], self._env.ram)
        with timer.time("network"):
            actions = self._choose_actions()
        self._steps.actions[self._num_steps] = actions
        self._lives = self._env.lives
        self._step_in_progress = self._executor.submit(self._env.step, actions)
        if complete is None:
            return None
        with timer.time("recorder"):  # while the emulators play
            return self._assemble(complete)

    def _empty_steps(self) -> Steps:
        return Steps.empty(STEPS_PER_ROLLOUT, self.num_envs, ram=self._env.ram is not None)

    def _end_step(self, states: Frames, rewards: npt.NDArray[np.float32], done: npt.NDArray[np.bool_]) -> None:
        """Keep the results of a step, and start the next episode where one is over."""
        steps, t = self._steps, self._num_steps
        self._states, steps.raw_rewards[t] = states, rewards
        steps.terminated[t], steps.truncated[t] = self._env.terminated, done & ~self._env.terminated
        self._num_steps += 1
        self._start_episodes(np.flatnonzero(done))
        # Some games are not over at once when no life is left; Stable-Baselines3 presses nothing then.
        lost_life = (self._env.lives < self._lives) & (self._env.lives > 0) & ~done
        self._fire_steps[lost_life] = FIRE_STEPS * self._needs_fire[self._policy[lost_life]]

    def _start_episodes(self, indices: npt.NDArray[np.int64]) -> None:
        """Give planned episodes to environments that have been reset."""
        for index in indices.tolist():
            episode = next(self._plan)
            self._episodes[index].append(episode)
            self._policy[index], self._epsilon[index] = episode.policy, episode.epsilon
            self._fire_steps[index] = FIRE_STEPS * self._needs_fire[episode.policy]

    def _choose_actions(self) -> npt.NDArray[np.int64]:
        """Return the next actions, int64 ``[N]``."""
        num_actions = len(self._env.action_meanings)
        explore = self._rng.random(self.num_envs) < self._epsilon
        actions = self._rng.integers(num_actions, size=self.num_envs)
        fire = self._fire_steps > 0
        actions[fire] = FIRE
        self._fire_steps[fire] -= 1
        for index, policy in enumerate(self._policies):
            greedy = np.flatnonzero((self._policy == index) & ~explore & ~fire)
            if len(greedy):
                actions[greedy] = policy.choose_actions(self._states[greedy])
        return actions

    def _assemble(self, steps: Steps) -> dict[int, FinishedEpisode]:
        """Return the episodes that ended in these steps, by their indices in the recording."""
        finished = {}
        for episode, position in self._assembler.add(steps):
            index = (position - 1) % self.num_envs
            planned = self._episodes[index].popleft()
            details = {
                "policy": planned.policy,
                "epsilon": planned.epsilon,
                "env_index": self._env_indices[index],
                "env_seed": int(self._env_seeds[index]),
            }
            finished[planned.index] = FinishedEpisode(episode, details)
        return finished
