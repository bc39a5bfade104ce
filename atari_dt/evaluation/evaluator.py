"""Plays episodes under target returns and records what they scored."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from atari_dt.environment import EnvironmentConfig, VectorGames
from atari_dt.evaluation.policy import DecisionTransformerPolicy, Policy
from atari_dt.games import find_game
from atari_dt.model import DatasetInfo, DecisionTransformer
from replay_data import InputError, TrajectoryStore


@dataclass(frozen=True)
class EvaluationResult:
    """Episodes played under one target return.

    Attributes:
        target_return: in the dataset's reward units.
        scores: float64 ``[episodes]``, in the game's own points.
        returns: float64 ``[episodes]``, the same episodes in the dataset's reward units.
        lengths: int64 ``[episodes]``, in steps.
    """

    target_return: float
    scores: npt.NDArray[np.float64]
    returns: npt.NDArray[np.float64]
    lengths: npt.NDArray[np.int64]


def dataset_of(model: DecisionTransformer) -> DatasetInfo:
    """Return what the model was trained on.

    Raises:
        InputError: if it does not know.
    """
    if model.dataset is None:
        raise InputError("this model does not know the dataset it was trained on, so there is no game to play")
    return model.dataset


def target_returns(
    dataset: DatasetInfo, return_multiples: Sequence[float], store: TrajectoryStore | None = None
) -> list[float]:
    """Turn multiples of the dataset's largest return into target returns.

    Args:
        dataset: what the model was trained on.
        return_multiples: such as 1.0 for the largest return itself.
        store: take the largest return from this store instead.

    Raises:
        InputError: if the store is of another game or counts rewards in another way, or if the largest return is not
            positive and a multiple is not 1.
    """
    largest = dataset.max_return
    if store is not None:
        if store.game != dataset.game:
            raise InputError(
                f"the model plays {dataset.game}, but the store at {store.path} is of {store.game}; "
                f"give a store of {dataset.game}"
            )
        if store.metadata["reward_clipping"] != dataset.reward_clipping:
            raise InputError(
                f"the store at {store.path} and the model's dataset clip rewards differently, so returns "
                "of one mean nothing to the other; give a store made with the same reward clipping"
            )
        largest = store.metadata["max_return"]
    if largest <= 0 and any(multiple != 1 for multiple in return_multiples):
        raise InputError(
            f"the dataset's largest return is {largest:g}, so multiples of it do not ask for more; "
            "use --return-multiples 1, or data with a positive return"
        )
    return [multiple * largest for multiple in return_multiples]


def evaluate(
    model: DecisionTransformer,
    targets: Sequence[float],
    *,
    episodes: int = 10,
    num_envs: int = 16,
    max_steps: int = 27_000,
    seed: int = 0,
    show_progress: bool = True,
) -> list[EvaluationResult]:
    """Play episodes of the game that a model was trained on, under each of some target returns.

    Sticky actions are those of the dataset (0.25 where it does not say). Episode i has the same seeds under every
    target return.

    Args:
        model: with its ``dataset``, on the device where it is to play.
        targets: target returns, in the dataset's reward units.
        episodes: under each target return.
        num_envs: games played at once.
        max_steps: after which an episode is cut off; 27,000 is the limit of the DQN-replay dataset.
        seed: of the emulator and of the action sampling.
        show_progress: a progress bar in episodes, with steps/s, on standard error.

    Raises:
        InputError: if a number is out of range, or the model does not know its dataset, or the game's actions are
            not those of the dataset.
    """
    _check_jobs(targets, episodes, seed)
    dataset = dataset_of(model)
    sticky = dataset.sticky_actions
    config = EnvironmentConfig.with_max_steps(max_steps, 0.25 if sticky is None else sticky)
    num_envs = min(num_envs, episodes * len(targets))
    games = VectorGames(find_game(dataset.game), num_envs, config)
    if games.action_meanings != list(dataset.action_meanings):
        raise InputError(
            f"the model was trained with the actions {' '.join(dataset.action_meanings)}, but "
            f"{dataset.game} has {' '.join(games.action_meanings)}"
        )
    policy = DecisionTransformerPolicy(model.eval(), num_envs, dataset.reward_clipping)
    return evaluate_policy(policy, games, targets, episodes, dataset.reward_clipping, seed, show_progress)


def evaluate_policy(
    policy: Policy,
    games: VectorGames,
    targets: Sequence[float],
    episodes: int,
    reward_clipping: bool,
    seed: int,
    show_progress: bool = True,
) -> list[EvaluationResult]:
    """Play ``episodes`` episodes under each target return; arguments and errors as in `evaluate`.

    All episodes wait in one queue, and a game whose episode ends takes the next.
    """
    _check_jobs(targets, episodes, seed)
    # A stream of its own: data collected with the same seed was played under other emulator seeds.
    seeds = [sequence.generate_state(2) for sequence in np.random.SeedSequence([seed, 1]).spawn(episodes)]
    emulator_seeds = np.array([int(pair[0] >> 1) for pair in seeds] * len(targets))
    sampling_seeds = np.array([int(pair[1]) for pair in seeds] * len(targets))
    job_targets = np.repeat(np.array(targets, dtype=np.float32), episodes)
    jobs = len(job_targets)
    scores, returns, lengths = np.zeros(jobs), np.zeros(jobs), np.zeros(jobs, dtype=np.int64)

    everywhere = np.arange(games.num_envs)
    job = everywhere.copy()  # which episode each game plays; ≥ jobs when there is none left for it
    first = np.minimum(job, jobs - 1)
    states = games.reset(emulator_seeds[first])
    policy.start(everywhere, job_targets[first], sampling_seeds[first])
    rewards = np.zeros(games.num_envs, dtype=np.float32)
    actions = np.zeros(games.num_envs, dtype=np.int64)
    finished: list[float] = []
    steps, start = 0, time.perf_counter()
    with tqdm(total=jobs, unit="episode", desc=f"evaluating {games.game.name}", disable=not show_progress) as bar:
        while len(playing := np.flatnonzero(job < jobs)):
            actions[playing] = policy.act(playing, states[playing], rewards[playing])
            states, rewards, ended = games.step(actions)
            now = job[playing]
            scores[now] += rewards[playing]
            returns[now] += rewards[playing].clip(-1, 1) if reward_clipping else rewards[playing]
            lengths[now] += 1
            steps += len(now)
            over = playing[ended[playing]]
            if len(over):
                finished.extend(scores[job[over]])
                speed = steps / (time.perf_counter() - start)
                bar.set_postfix_str(f"{speed:.0f} steps/s, mean score {np.mean(finished):.1f}")
                bar.update(len(over))
                job[over] = job.max() + 1 + np.arange(len(over))
                more = over[job[over] < jobs]
                if len(more):
                    states = games.restart(more, emulator_seeds[job[more]])
                    policy.start(more, job_targets[job[more]], sampling_seeds[job[more]])
    parts = [slice(i * episodes, (i + 1) * episodes) for i in range(len(targets))]
    return [
        EvaluationResult(float(target), scores[part], returns[part], lengths[part])
        for target, part in zip(targets, parts, strict=True)
    ]


def _check_jobs(targets: Sequence[float], episodes: int, seed: int) -> None:
    if seed < 0:
        raise InputError(f"seed must not be negative, not {seed}")
    if episodes < 1 or not targets:
        raise InputError(f"at least 1 episode and 1 target return are needed, not {episodes} and {len(targets)}")
    if not np.isfinite(targets).all():
        raise InputError(f"target returns must be finite numbers, not {list(targets)}")
