"""Plays episodes under target returns and records what was done and scored."""

from __future__ import annotations

import time
from array import array
from collections.abc import Sequence

import numpy as np

from atari_dt.environment.config import EnvironmentConfig
from atari_dt.environment.vector_env import VectorEnv, make_vector_env
from atari_dt.evaluation.play_config import PlayConfig
from atari_dt.evaluation.policy import DecisionTransformerPolicy, Policy, RandomPolicy
from atari_dt.evaluation.results import EvaluatedEpisode, EvaluationResult
from atari_dt.evaluation.target_returns import require_dataset
from atari_dt.games.catalogue import find_game
from atari_dt.model.dataset_info import DatasetInfo
from atari_dt.model.decision_transformer import DecisionTransformer
from replay_data import InputError
from replay_data.progress import ProgressBar
from replay_data.storage.processes import available_cores


def evaluate(
    model: DecisionTransformer,
    targets: Sequence[float],
    play: PlayConfig | None = None,
    *,
    num_envs: int = 16,
    show_progress: bool = True,
) -> list[EvaluationResult]:
    """Evaluate a model on the game it was trained on, under each of several target returns.

    Episode i has the same seeds under every target return.

    Args:
        model: Trained model with its ``dataset``, on the device it plays on; `PlayConfig.device` is not read.
        targets: Target returns, in the dataset's reward units.
        play: How the model plays.
        num_envs: Number of environments stepped in parallel; the results do not depend on it.
        show_progress: Whether to show a progress bar of episodes on standard error.

    Raises:
        InputError: If a number is out of range, the model does not know its dataset, or the game's actions are not
            those of the dataset.
    """
    play = play or PlayConfig()
    _check_jobs(targets, num_envs)
    dataset = require_dataset(model)
    num_envs = min(num_envs, play.episodes * len(targets))
    policy = DecisionTransformerPolicy(model.eval(), num_envs, play.protocol, play.sampling)
    env = make_dataset_env(dataset, num_envs, play.environment(dataset))
    return evaluate_policy(policy, env, targets, play.episodes, dataset.reward_clipping, play.seed, show_progress)


def evaluate_random(
    dataset: DatasetInfo, play: PlayConfig | None = None, *, num_envs: int = 16, show_progress: bool = True
) -> EvaluationResult:
    """Evaluate a uniform-random policy under the same protocol.

    Args:
        dataset: Dataset whose game is played.
        play: How the policy plays; its sampling and device are not read.
        num_envs: Number of environments stepped in parallel.
        show_progress: Whether to show a progress bar of episodes on standard error.
    """
    play = play or PlayConfig()
    _check_jobs([0.0], num_envs)
    num_envs = min(num_envs, play.episodes)
    env = make_dataset_env(dataset, num_envs, play.environment(dataset))
    policy = RandomPolicy(num_envs, len(dataset.action_meanings))
    (result,) = evaluate_policy(policy, env, [0.0], play.episodes, dataset.reward_clipping, play.seed, show_progress)
    return result


def make_dataset_env(dataset: DatasetInfo, num_envs: int, config: EnvironmentConfig) -> VectorEnv:
    """Return environments of a dataset's game.

    Raises:
        InputError: If the game's actions are not those of the dataset.
    """
    env = make_vector_env(find_game(dataset.game), num_envs, config)
    if env.action_meanings != list(dataset.action_meanings):
        raise InputError(
            f"the model was trained with the actions {' '.join(dataset.action_meanings)}, but "
            f"{dataset.game} has {' '.join(env.action_meanings)}"
        )
    return env


def evaluate_policy(
    policy: Policy,
    games: VectorEnv,
    targets: Sequence[float],
    episodes: int,
    reward_clipping: bool,
    seed: int,
    show_progress: bool = True,
) -> list[EvaluationResult]:
    """Play ``episodes`` episodes under each target return; arguments and errors as in `evaluate`.

    All episodes wait in one queue, and a game whose episode ends takes the next.
    """
    # A stream of its own: data collected with the same seed was played under other emulator seeds.
    seeds = [sequence.generate_state(2) for sequence in np.random.SeedSequence([seed, 1]).spawn(episodes)]
    emulator_seeds = np.array([int(pair[0] >> 1) for pair in seeds] * len(targets))
    sampling_seeds = np.array([int(pair[1]) for pair in seeds] * len(targets))
    job_targets = np.repeat(np.array(targets, dtype=np.float32), episodes)
    jobs = len(job_targets)
    scores, returns, lengths = np.zeros(jobs), np.zeros(jobs), np.zeros(jobs, dtype=np.int64)
    actions_of, returns_to_go_of = [array("B") for _ in range(jobs)], [array("f") for _ in range(jobs)]

    # Seeding an emulator means loading its ROM, a tenth of a second on one core; so a game whose episode has ended
    # waits until there is one for every core.
    together = max(1, min(available_cores(), games.num_envs // 4))
    everywhere = np.arange(games.num_envs)
    job = np.where(everywhere < jobs, everywhere, -1)  # which episode each game plays; -1 if none
    given = min(jobs, games.num_envs)  # episodes that have begun
    states = games.reset(emulator_seeds[np.maximum(job, 0)])
    policy.start(everywhere, job_targets[np.maximum(job, 0)], sampling_seeds[np.maximum(job, 0)])
    rewards = np.zeros(games.num_envs, dtype=np.float32)
    actions = np.zeros(games.num_envs, dtype=np.int64)
    finished: list[float] = []
    steps = 0
    start = shown = time.perf_counter()
    with ProgressBar(
        total=jobs, unit="episode", desc=f"evaluating {games.game.name}", disable=not show_progress
    ) as bar:
        while True:
            free = np.flatnonzero(job < 0)[: jobs - given]
            if len(free) and (len(free) >= min(together, jobs - given) or (job < 0).all()):
                job[free] = given + np.arange(len(free))
                given += len(free)
                states = games.restart(free, emulator_seeds[job[free]])
                policy.start(free, job_targets[job[free]], sampling_seeds[job[free]])
            playing = np.flatnonzero(job >= 0)
            if not len(playing):
                break
            actions[playing] = policy.act(playing, states[playing], rewards[playing])
            for game in playing:
                actions_of[job[game]].append(actions[game])
                returns_to_go_of[job[game]].append(policy.returns_to_go[game])
            states, rewards, ended = games.step(actions)
            now = job[playing]
            scores[now] += rewards[playing]
            returns[now] += rewards[playing].clip(-1, 1) if reward_clipping else rewards[playing]
            lengths[now] += 1
            steps += len(now)
            over = playing[ended[playing]]
            finished.extend(scores[job[over]])
            job[over] = -1
            if len(over) or time.perf_counter() > shown + 0.5:
                shown = time.perf_counter()
                mean = f", mean score {np.mean(finished):.1f}" if finished else ""
                bar.set_postfix_str(f"{steps / (shown - start):.0f} steps/s{mean}", refresh=False)
                bar.update(len(over))
                bar.refresh()
    return [
        EvaluationResult(
            float(target),
            scores[part],
            returns[part],
            lengths[part],
            emulator_seeds[part],
            tuple(
                EvaluatedEpisode(np.array(done, dtype=np.uint8), np.array(returns_to_go, dtype=np.float32))
                for done, returns_to_go in zip(actions_of[part], returns_to_go_of[part], strict=True)
            ),
        )
        for target, part in zip(targets, (slice(i, i + episodes) for i in range(0, jobs, episodes)), strict=True)
    ]


def _check_jobs(targets: Sequence[float], num_envs: int) -> None:
    if not targets:
        raise InputError("at least 1 target return is needed")
    if num_envs < 1:
        raise InputError(f"`num_envs` must be at least 1, not {num_envs}")
    if not np.isfinite(targets).all():
        raise InputError(f"target returns must be finite numbers, not {list(targets)}")
