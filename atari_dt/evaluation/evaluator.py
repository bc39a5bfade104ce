"""Plays episodes under target returns and records what was done and scored."""

from __future__ import annotations

import time
from array import array
from collections.abc import Sequence

import numpy as np

from atari_dt.environment.rom import Rom
from atari_dt.environment.vector_env import VectorEnv, make_vector_env
from atari_dt.evaluation.policy import DecisionTransformerPolicy, Policy, RandomPolicy, Sampling
from atari_dt.evaluation.protocol import EvaluationProtocol
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
    *,
    episodes: int = 10,
    num_envs: int = 16,
    max_steps: int = 27_000,
    seed: int = 0,
    protocol: EvaluationProtocol | None = None,
    sampling: Sampling | None = None,
    rom: Rom | None = None,
    show_progress: bool = True,
) -> list[EvaluationResult]:
    """Play episodes of the game that a model was trained on, under each of some target returns.

    Episode i has the same seeds under every target return.

    Args:
        model: with its ``dataset``, on the device where it is to play.
        targets: target returns, in the dataset's reward units.
        episodes: under each target return.
        num_envs: games played at once.
        max_steps: after which an episode is cut off; 27,000 is the limit of the DQN-replay dataset.
        seed: of the emulator, the no-ops and the action sampling.
        protocol: how the game is played and the model conditioned; by default as the data was made.
        sampling: how actions are chosen; by default from the softmax of the logits.
        rom: played instead of the one that comes with ALE.
        show_progress: a progress bar in episodes, with steps/s, on standard error.

    Raises:
        InputError: if a number is out of range, or the model does not know its dataset, or the game's actions are
            not those of the dataset.
    """
    _check_jobs(targets, episodes, num_envs, seed)
    dataset = require_dataset(model)
    num_envs = min(num_envs, episodes * len(targets))
    protocol = protocol or EvaluationProtocol()
    policy = DecisionTransformerPolicy(model.eval(), num_envs, protocol, sampling)
    games = make_dataset_env(dataset, num_envs, protocol, max_steps, rom)
    return evaluate_policy(policy, games, targets, episodes, dataset.reward_clipping, seed, show_progress)


def evaluate_random(
    dataset: DatasetInfo,
    *,
    episodes: int = 10,
    num_envs: int = 16,
    max_steps: int = 27_000,
    seed: int = 0,
    protocol: EvaluationProtocol | None = None,
    rom: Rom | None = None,
    show_progress: bool = True,
) -> EvaluationResult:
    """Let a player play to whom all actions are equal, under the same conditions; arguments as in `evaluate`."""
    _check_jobs([0.0], episodes, num_envs, seed)
    num_envs = min(num_envs, episodes)
    games = make_dataset_env(dataset, num_envs, protocol or EvaluationProtocol(), max_steps, rom)
    policy = RandomPolicy(num_envs, len(dataset.action_meanings))
    (result,) = evaluate_policy(policy, games, [0.0], episodes, dataset.reward_clipping, seed, show_progress)
    return result


def make_dataset_env(
    dataset: DatasetInfo, num_envs: int, protocol: EvaluationProtocol, max_steps: int, rom: Rom | None = None
) -> VectorEnv:
    """Return N games of the one that a dataset is of, to be played under a protocol.

    Raises:
        InputError: if a number is out of range, or the game's actions are not those of the dataset.
    """
    games = make_vector_env(find_game(dataset.game), num_envs, protocol.environment(dataset, max_steps, rom))
    if games.action_meanings != list(dataset.action_meanings):
        raise InputError(
            f"the model was trained with the actions {' '.join(dataset.action_meanings)}, but "
            f"{dataset.game} has {' '.join(games.action_meanings)}"
        )
    return games


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


def _check_jobs(targets: Sequence[float], episodes: int, num_envs: int, seed: int) -> None:
    if seed < 0:
        raise InputError(f"seed must not be negative, not {seed}")
    if episodes < 1 or not targets:
        raise InputError(f"at least 1 episode and 1 target return are needed, not {episodes} and {len(targets)}")
    if num_envs < 1:
        raise InputError(f"at least 1 game must be played at once, not {num_envs}")
    if not np.isfinite(targets).all():
        raise InputError(f"target returns must be finite numbers, not {list(targets)}")
