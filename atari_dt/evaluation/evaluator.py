"""Play episodes under target returns and record actions, scores and returns.

`evaluate` plays a model, `evaluate_random` the uniform-random policy, and `evaluate_policy` any policy. Each episode
has its own seeds, so its result does not depend on the number of environments.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Sequence

import numpy as np

from atari_dt.environment.config import EnvironmentConfig
from atari_dt.environment.vector_env import VectorEnv, make_vector_env
from atari_dt.evaluation.play_config import PlayConfig
from atari_dt.evaluation.results import EvaluatedEpisode, EvaluationResult
from atari_dt.evaluation.target_returns import check_target_returns
from atari_dt.games.catalogue import find_game
from atari_dt.methods.registry import find_method
from atari_dt.model.dataset_info import DatasetInfo
from atari_dt.model.pretrained import PretrainedModel
from atari_dt.policies.epsilon_greedy import RandomPolicy
from atari_dt.policies.policy import Floats, Ints, Policy
from replay_data import InputError
from replay_data.observation import FRAMES, ObservationSpec
from replay_data.progress import ProgressBar
from replay_data.storage.processes import available_cores

_IDLE = -1  # in place of an episode's index, for an environment that plays none

_SECONDS_BETWEEN_REFRESHES = 0.5


def evaluate(
    model: PretrainedModel,
    target_returns: Sequence[float],
    play: PlayConfig | None = None,
    *,
    num_envs: int = 16,
    show_progress: bool = True,
) -> list[EvaluationResult]:
    """Evaluate a model on the game it was trained on, under each of several target returns.

    Episode i has the same seeds under every target return.

    Args:
        model: Trained model with its ``dataset``, on the device it plays on; ``play.device`` is ignored.
        target_returns: Target returns, in the dataset's reward units. For a model without target returns, give one,
            which it ignores.
        play: How the model plays.
        num_envs: Number of environments stepped in parallel; the results do not depend on it.
        show_progress: Whether to show a progress bar of episodes on standard error.

    Returns:
        One result for each target return.

    Raises:
        InputError: If a number is out of range, the model does not know its dataset, the game's actions are not those
            of the dataset, or the model cannot act under the protocol or with this sampling.
    """
    play = play or PlayConfig()
    _check_arguments(target_returns, num_envs)
    dataset = model.require_dataset()
    num_envs = min(num_envs, play.episodes * len(target_returns))
    policy = find_method(model.config).make_policy(model.eval(), num_envs, play.protocol, play.sampling, play.planning)
    env = make_dataset_env(dataset, num_envs, play.environment(dataset), model.observation)
    return evaluate_policy(
        policy, env, target_returns, play.episodes, dataset.reward_clipping, play.seed, show_progress
    )


def evaluate_random(
    dataset: DatasetInfo, play: PlayConfig | None = None, *, num_envs: int = 16, show_progress: bool = True
) -> EvaluationResult:
    """Evaluate a uniform-random policy under the same protocol.

    Args:
        dataset: Dataset whose game is played.
        play: How the policy plays; ``play.sampling`` and ``play.device`` are ignored.
        num_envs: Number of environments stepped in parallel; the result does not depend on it.
        show_progress: Whether to show a progress bar of episodes on standard error.

    Raises:
        InputError: If a number is out of range, or the game's actions are not those of the dataset.
    """
    play = play or PlayConfig()
    _check_arguments([0.0], num_envs)
    num_envs = min(num_envs, play.episodes)
    env = make_dataset_env(dataset, num_envs, play.environment(dataset))
    policy = RandomPolicy(num_envs, len(dataset.action_meanings))
    (result,) = evaluate_policy(policy, env, [0.0], play.episodes, dataset.reward_clipping, play.seed, show_progress)
    return result


def make_dataset_env(
    dataset: DatasetInfo, num_envs: int, config: EnvironmentConfig, observation: ObservationSpec = FRAMES
) -> VectorEnv:
    """Return environments of a dataset's game.

    Args:
        dataset: Dataset whose game is played.
        num_envs: Number of environments.
        config: Settings of the environments.
        observation: What a state consists of.

    Raises:
        InputError: If the game's actions are not those of the dataset.
    """
    env = make_vector_env(find_game(dataset.game), num_envs, config, observation)
    if env.action_meanings != list(dataset.action_meanings):
        raise InputError(
            f"the model was trained with the actions {' '.join(dataset.action_meanings)}, but "
            f"{dataset.game} has {' '.join(env.action_meanings)}"
        )
    return env


def evaluate_policy(
    policy: Policy,
    env: VectorEnv,
    target_returns: Sequence[float],
    episodes: int,
    reward_clipping: bool,
    seed: int,
    show_progress: bool = True,
) -> list[EvaluationResult]:
    """Evaluate a policy under each of several target returns.

    All episodes wait in one queue, and an environment that is done takes the next.

    Args:
        policy: Policy of ``env.num_envs`` environments.
        env: Environments to play in.
        target_returns: Target returns, in the dataset's reward units.
        episodes: Number of episodes under each target return.
        reward_clipping: Whether the returns in the results are sums of rewards clipped to [-1, 1].
        seed: Seed of the emulator, the no-ops and the action sampling.
        show_progress: Whether to show a progress bar of episodes on standard error.

    Returns:
        One result for each target return.
    """
    queue = _EpisodeQueue(target_returns, episodes, seed)
    # Seeding an emulator loads its ROM, which takes a tenth of a second on one core. Environments that are done
    # therefore wait until there is one for every core.
    min_restarts = max(1, min(available_cores(), env.num_envs // 4))
    all_envs = np.arange(env.num_envs)
    playing = np.where(all_envs < len(queue), all_envs, _IDLE)  # index of the episode in each environment
    num_started = min(len(queue), env.num_envs)
    first = np.maximum(playing, 0)
    states = env.reset(queue.emulator_seeds[first])
    policy.start(all_envs, queue.target_returns[first], queue.sampling_seeds[first])
    rewards = np.zeros(env.num_envs, dtype=np.float32)
    actions = np.zeros(env.num_envs, dtype=np.int64)
    final_scores: list[float] = []
    num_steps = 0
    start = last_refresh = time.perf_counter()
    with ProgressBar(
        total=len(queue), unit="episode", desc=f"evaluating {env.game.name}", disable=not show_progress
    ) as bar:
        while True:
            num_waiting = len(queue) - num_started
            idle = np.flatnonzero(playing == _IDLE)[:num_waiting]
            if len(idle) and (len(idle) >= min(min_restarts, num_waiting) or (playing == _IDLE).all()):
                playing[idle] = num_started + np.arange(len(idle))
                num_started += len(idle)
                states = env.restart(idle, queue.emulator_seeds[playing[idle]])
                policy.start(idle, queue.target_returns[playing[idle]], queue.sampling_seeds[playing[idle]])
            active = np.flatnonzero(playing != _IDLE)
            if not len(active):
                break
            actions[active] = policy.act(active, states[active], rewards[active])
            returns_to_go = policy.returns_to_go[active]
            states, rewards, done = env.step(actions)
            clipped = rewards.clip(-1, 1) if reward_clipping else rewards
            queue.record_step(playing[active], actions[active], returns_to_go, rewards[active], clipped[active])
            num_steps += len(active)
            finished = active[done[active]]
            final_scores.extend(queue.scores[playing[finished]])
            playing[finished] = _IDLE
            if len(finished) or time.perf_counter() > last_refresh + _SECONDS_BETWEEN_REFRESHES:
                last_refresh = time.perf_counter()
                mean = f", mean score {np.mean(final_scores):.1f}" if final_scores else ""
                bar.set_postfix_str(f"{num_steps / (last_refresh - start):.0f} steps/s{mean}", refresh=False)
                bar.update(len(finished))
                bar.refresh()
    return queue.results()


class _EpisodeQueue:
    """Episodes of an evaluation, in the order in which they start: all of the first target return, then of the next.

    Args:
        target_returns: Target returns.
        episodes: Number of episodes under each target return; J is this number times the number of target returns.
        seed: Seed of the evaluation.

    Attributes:
        target_returns: Target return of each episode, float32 ``[J]``.
        emulator_seeds: Emulator seed of each episode, int64 ``[J]``.
        sampling_seeds: Seed of the action sampling in each episode, int64 ``[J]``.
        scores: Sum of rewards so far of each episode, float64 ``[J]``.
    """

    def __init__(self, target_returns: Sequence[float], episodes: int, seed: int):
        # Data collected with the same seed has other emulator seeds, because of the 1.
        sequences = np.random.SeedSequence([seed, 1]).spawn(episodes)
        seeds = [sequence.generate_state(2) for sequence in sequences]
        self._target_returns, self._episodes = target_returns, episodes
        self.target_returns = np.repeat(np.array(target_returns, dtype=np.float32), episodes)
        self.emulator_seeds = np.array([int(pair[0] >> 1) for pair in seeds] * len(target_returns))
        self.sampling_seeds = np.array([int(pair[1]) for pair in seeds] * len(target_returns))
        self.scores = np.zeros(len(self))
        self._returns, self._lengths = np.zeros(len(self)), np.zeros(len(self), dtype=np.int64)
        self._actions = [array("B") for _ in range(len(self))]
        self._returns_to_go = [array("f") for _ in range(len(self))]

    def __len__(self) -> int:
        return len(self.target_returns)

    def record_step(
        self, indices: Ints, actions: Ints, returns_to_go: Floats, rewards: Floats, clipped: Floats
    ) -> None:
        """Add a step to each of M episodes.

        Args:
            indices: Indices of the episodes, int64 ``[M]``.
            actions: Actions of the step, int64 ``[M]``.
            returns_to_go: Returns-to-go before the step, float32 ``[M]``.
            rewards: Rewards of the step in points, float32 ``[M]``.
            clipped: Rewards of the step in the dataset's units, float32 ``[M]``.
        """
        for index, action, return_to_go in zip(indices, actions, returns_to_go, strict=True):
            self._actions[index].append(action)
            self._returns_to_go[index].append(return_to_go)
        self.scores[indices] += rewards
        self._returns[indices] += clipped
        self._lengths[indices] += 1

    def results(self) -> list[EvaluationResult]:
        """Return the result of each target return."""
        slices = [slice(i, i + self._episodes) for i in range(0, len(self), self._episodes)]
        return [
            EvaluationResult(
                float(target_return),
                self.scores[rows],
                self._returns[rows],
                self._lengths[rows],
                self.emulator_seeds[rows],
                tuple(
                    EvaluatedEpisode(np.array(actions, dtype=np.uint8), np.array(returns_to_go, dtype=np.float32))
                    for actions, returns_to_go in zip(self._actions[rows], self._returns_to_go[rows], strict=True)
                ),
            )
            for target_return, rows in zip(self._target_returns, slices, strict=True)
        ]


def _check_arguments(target_returns: Sequence[float], num_envs: int) -> None:
    """Raise an InputError if there is no target return, one is not finite, or there is no environment."""
    if not target_returns:
        raise InputError("`target_returns` must have at least 1 number")
    if num_envs < 1:
        raise InputError(f"`num_envs` must be at least 1, not {num_envs}")
    check_target_returns(target_returns)
