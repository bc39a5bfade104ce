"""Which episodes of a recorded run enter a store.

===========  =========================================================================================================
original     the paper's draw to the letter, the quirks of its code included (docs/protocol.md)
corrected    the same draw, of whole episodes: no padding rows, no wrong timesteps, nothing cut at a buffer's border
even         the first episodes of every buffer or shard, the same number of steps from each
top          of all episodes, the best by return
all          all episodes
===========  =========================================================================================================
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from replay_data.dopamine_log import LogBuffer
from replay_data.episode import Episode, Part, Source
from replay_data.errors import InputError
from replay_data.files import check_free_space
from replay_data.parallel import Job, available_cores, in_order
from replay_data.trajectory_store import FRAME_SHAPE, LEAD_IN, StoreWriter, TrajectoryStore

Bar: TypeAlias = "tqdm[Any]"
Kind = Literal["original", "corrected", "even", "top", "all"]

STICKY_ACTIONS = 0.25  # of the DQN-replay experience (Agarwal et al. 2020), which both sources hold
_MOST_WORKERS = 8  # threads unless more are asked for; each holds a few episodes
_LIMITS: dict[str, tuple[float, float]] = {
    "num_steps": (1, math.inf),
    "num_buffers": (1, math.inf),
    "trajectories_per_buffer": (0, math.inf),
    "seed": (0, 2**32 - 1),
    "top_percent": (0.01, 100),
}
_OPTIONS: dict[Kind, tuple[str, ...]] = {
    "original": ("num_steps", "num_buffers", "trajectories_per_buffer", "seed"),
    "corrected": ("num_steps", "num_buffers", "trajectories_per_buffer", "seed"),
    "even": ("num_steps", "num_buffers"),
    "top": ("num_buffers", "top_percent"),
    "all": ("num_buffers",),
}


@dataclass(frozen=True)
class Selection:
    """Which episodes; see this module's table. The defaults are the paper's settings.

    Attributes:
        kind: of selection.
        num_steps: steps that are enough; the visit (or, of each part, the episode) that reaches them is finished.
        num_buffers: only the last so many buffers or shards of the run; None, for other kinds than the draws: all.
        trajectories_per_buffer: ends of games that a visit passes before its last one.
        seed: of the draw of buffers.
        top_percent: of the episodes, rounded up.
    """

    kind: Kind = "corrected"
    num_steps: int = 500_000
    num_buffers: int | None = 50
    trajectories_per_buffer: int = 10
    seed: int = 123
    top_percent: float = 10

    @classmethod
    def of(cls, kind: Kind, **options: Any) -> Selection:
        """A selection with the given options; None stands for the default.

        Raises:
            InputError: if an option means nothing to the kind, or makes no sense.
        """
        given = {name: value for name, value in options.items() if value is not None}
        for name, value in given.items():
            flag, (low, high) = _flag(name), _LIMITS[name]
            if name not in _OPTIONS[kind]:
                takes = ", ".join(map(_flag, _OPTIONS[kind]))
                raise InputError(f"{flag} means nothing to --selection {kind}, which takes {takes}; leave it out")
            if not low <= value <= high:
                limits = f"at least {low}" if high == math.inf else f"from {low} to {high}"
                raise InputError(f"{flag} is {value}; it must be {limits}")
        return cls(kind, **{"num_buffers": 50 if kind in ("original", "corrected") else None, **given})

    def described(self) -> dict[str, Any]:
        """What a store's metadata says of it: the options that mean something to the kind."""
        options = ("kind", *_OPTIONS[self.kind])
        return {name: value for name, value in asdict(self).items() if name in options and value is not None}


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def build_store(
    out: Path,
    source: Source,
    selection: Selection,
    *,
    game: str,
    action_meanings: Sequence[str],
    about: Mapping[str, Any],
    num_workers: int | None = None,
    verify: bool = False,
    show_progress: bool = True,
) -> TrajectoryStore:
    """Write the selected episodes of a recorded run to a store.

    Args:
        out: directory of the store, to be created.
        source: the run.
        selection: which episodes.
        game: name of the game, such as ``"Breakout"``.
        action_meanings: name of each action.
        about: what else the store's metadata should say of its source.
        num_workers: threads that read, each a file; by default one per core, at most 8. The store is the same for
            any number.
        verify: read every file that was used to its end, so that all checksums are compared. Otherwise those of the
            frames are not, where a selection needs only the first rows of long files (``source.verified``).
        show_progress: whether to show a progress bar.

    Returns:
        The store. Its metadata says how many episodes came from each part (``source.episodes_per_part``), and whether
        checksums vouch for all of them (``source.verified``).

    Raises:
        ReplayFormatError: if the recorded data is damaged.
        InputError: if ``out`` exists, or the run does not hold what is selected.
    """
    num_workers = min(available_cores(), _MOST_WORKERS) if num_workers is None else num_workers
    if num_workers < 1:
        raise InputError(f"--num-workers is {num_workers}; it must be at least 1")
    num_buffers = min(selection.num_buffers or source.num_parts, source.num_parts)
    numbers = range(source.num_parts - num_buffers, source.num_parts)
    parts = {number: source.parts[number] for number in sorted(source.parts) if number in numbers}
    if not parts:
        raise InputError(
            f"the run has only {ranges(source.parts)}, but the last {num_buffers} of {source.num_parts} are "
            f"{ranges(numbers)}; raise --num-buffers"
        )
    recording = dict(source.recording or {})
    writer = StoreWriter(
        out,
        game=game,
        action_meanings=action_meanings,
        reward_clipping=True,
        sticky_actions=recording.get("sticky_actions", STICKY_ACTIONS),
        source={**about, **({"recording": recording} if recording else {}), "selection": selection.described()},
    )
    steps = selection.num_steps if "num_steps" in _OPTIONS[selection.kind] else None
    check_free_space(out, (steps or 0) * FRAME_SHAPE[0] * FRAME_SHAPE[1])
    buffers = {number: part for number, part in parts.items() if isinstance(part, LogBuffer)}
    if selection.kind == "original" and len(buffers) < len(parts):
        raise InputError("the original selection counts rows of a replay log; take --selection corrected for shards")
    bar = tqdm(total=steps, unit="step", unit_scale=True, desc="reading", disable=not show_progress)
    try:
        with writer, bar:
            if selection.kind == "original":
                counts = _write_original(writer, buffers, numbers, selection, num_workers, bar)
            else:
                jobs = _jobs(parts, numbers, selection, num_workers, bar)
                counts = _write_episodes(writer, jobs, selection, num_workers, bar, recorded_here=bool(recording))
            # What is read whole costs nothing more to check.
            everything = verify or selection.kind in ("top", "all")
            with ThreadPoolExecutor(num_workers) as pool:
                checked = list(pool.map(lambda number: parts[number].check(everything), counts))
            writer.source["verified"] = all(checked)
            writer.source["episodes_per_part"] = {str(number): counts[number] for number in sorted(counts)}
    except KeyboardInterrupt:
        raise KeyboardInterrupt("nothing was kept") from None
    finally:
        for part in parts.values():
            part.close()
    return TrajectoryStore.open(out)


_Found = tuple[int, Episode | None]  # the number of its part, the episode; None at the end of a visit


def _jobs(
    parts: Mapping[int, Part], numbers: range, selection: Selection, num_workers: int, bar: Bar
) -> Iterator[Job[_Found]]:
    """What reads the selected episodes, in their order; endless for a draw, which the caller ends."""
    if selection.kind == "corrected":
        yield from _draw(parts, numbers, selection)
        return
    chosen: Mapping[int, Collection[int]] | None = None
    if selection.kind == "top":
        chosen = _best(parts, selection, num_workers, bar)
    for number, part in parts.items():
        if selection.kind == "even":
            episodes = partial(_share, number, part, math.ceil(selection.num_steps / len(parts)))
        else:
            episodes = partial(part.episodes, chosen and chosen[number])
        if chosen is None or chosen[number]:
            yield Job(number, partial(_tagged, number, episodes))


def _tagged(number: int, episodes: Callable[[], Iterator[Episode]]) -> Iterator[_Found]:
    for episode in episodes():
        yield number, episode
    yield number, None


def _draw(parts: Mapping[int, Part], numbers: range, selection: Selection) -> Iterator[Job[_Found]]:
    """The paper's draw of parts: a random one again and again, each time from where its last visit ended.

    As in the original code a visit passes ``trajectories_per_buffer + 1`` ends of games, and one that would reach row
    100,000 is not made; a part that is not there is drawn in vain.
    """
    random = np.random.RandomState(selection.seed)  # the generator that np.random.seed and np.random.choice use
    while not all(part.exhausted for part in parts.values()):
        number = int(random.choice(numbers, 1)[0])
        if number in parts:
            episodes = partial(parts[number].visit, selection.trajectories_per_buffer + 1)
            yield Job(number, partial(_tagged, number, episodes))


def _share(number: int, part: Part, steps: int) -> Iterator[Episode]:
    """The first episodes of a part that have ``steps`` steps together."""
    found = 0
    for episode in part.episodes():
        yield episode
        found += len(episode)
        if found >= steps:
            return
    raise InputError(
        f"number {number} of the run's buffers or shards holds {found:,} steps of whole episodes, less than its share "
        f"of {steps:,}; ask for fewer --num-steps, or take what is there with --selection all"
    )


def _best(parts: Mapping[int, Part], selection: Selection, num_workers: int, bar: Bar) -> dict[int, set[int]]:
    """Which episodes of each part are among the best by return, the earlier one where two are equal."""

    def returns(number: int) -> Iterator[tuple[float, int, int]]:
        for index, value in enumerate(parts[number].returns()):
            yield -value, number, index
        parts[number].check(everything=True)

    ranked = []
    with closing(in_order([Job(number, partial(returns, number)) for number in parts], num_workers)) as found:
        for episode in found:
            ranked.append(episode)
            bar.set_description(f"ranking {len(ranked)} episodes")
    bar.set_description("reading")
    ranked.sort()
    best = ranked[: math.ceil(len(ranked) * selection.top_percent / 100)]
    return {number: {index for _, part, index in best if part == number} for number in parts}


def _write_episodes(
    writer: StoreWriter,
    jobs: Iterator[Job[_Found]],
    selection: Selection,
    num_workers: int,
    bar: Bar,
    recorded_here: bool,
) -> Counter[int]:
    """Append the episodes; return how many came from each part."""
    counts: Counter[int] = Counter()
    raw_rewards_differ = False
    draw = selection.kind == "corrected"
    with closing(in_order(jobs, num_workers)) as found:
        for number, episode in found:
            if episode is None:
                if draw and writer.steps >= selection.num_steps:
                    break
                continue
            writer.append(episode.frames, episode.actions, episode.rewards, episode.raw_rewards)
            raw_rewards_differ |= episode.raw_rewards is not None and not np.array_equal(
                episode.raw_rewards, episode.rewards
            )
            counts[number] += 1
            bar.update(len(episode))
    if draw and writer.steps < selection.num_steps:
        raise _too_few(writer.steps, selection)
    if not raw_rewards_differ and not recorded_here:  # then they are clipped ones too, as in the public shards
        writer.discard_raw_rewards()
    return counts


def _too_few(steps: int, selection: Selection) -> InputError:
    return InputError(
        f"visits of {selection.trajectories_per_buffer} + 1 episodes reach only {steps:,} of {selection.num_steps:,} "
        "steps in the buffers or shards that are there; ask for fewer --num-steps or --trajectories-per-buffer, or use "
        "--selection even or all"
    )


@dataclass(frozen=True)
class _OriginalPlan:
    """What the original code's create_dataset returns, frames aside; N rows.

    Attributes:
        visits: number of the buffer, first row, and exclusive end row of each of its episodes.
        returns_to_go: float32 ``[N]``.
        timesteps: int64 ``[N + 1]``.
        done_idxs: int64; the ends of episodes, and among them those that visits left behind which were given up.
    """

    visits: list[tuple[int, int, list[int]]]
    returns_to_go: npt.NDArray[np.float32]
    timesteps: npt.NDArray[np.int64]
    done_idxs: npt.NDArray[np.int64]


def _plan_original(parts: Mapping[int, LogBuffer], numbers: range, selection: Selection) -> _OriginalPlan:
    """Replay the original code's draw on the terminals and rewards alone (its create_dataset.py)."""
    random = np.random.RandomState(selection.seed)
    pointers = dict.fromkeys(parts, 0)
    exhausted: set[int] = set()
    visits: list[tuple[int, int, list[int]]] = []
    done: list[int] = []
    steps = 0
    while steps < selection.num_steps:
        if len(exhausted) == len(parts):  # the original would draw for ever
            raise _too_few(steps, selection)
        number = int(random.choice(numbers, 1)[0])
        if number not in parts:
            continue
        buffer, start = parts[number], pointers[number]
        ends, made = buffer.visit_ends(start, selection.trajectories_per_buffer + 1, buffer.capacity)
        done.extend((ends - start + steps).tolist())
        if not made:
            exhausted.add(number)  # the rows of this visit are dropped, but its episode ends stay in done_idxs
            continue
        visits.append((number, start, ends.tolist()))
        pointers[number] = int(ends[-1])
        steps += int(ends[-1]) - start
    if max(done) > steps:
        raise InputError(
            f"the original code ends with an IndexError on this draw (a visit that it gave up left an episode end at "
            f"{max(done):,} of {steps:,} steps); take another --seed, or --selection corrected"
        )
    columns = {number: parts[number].rewards(end) for number, end in pointers.items() if end}
    rewards = np.concatenate([columns[number][start : ends[-1]] for number, start, ends in visits])
    returns_to_go = np.zeros(steps, dtype=np.float32)
    timesteps = np.zeros(steps + 1, dtype=np.int64)
    start = 0
    for end in done:
        if start < end:
            returns_to_go[start:end] = np.cumsum(rewards[start:end][::-1], dtype=np.float64)[::-1]
        start = end
    start = 0
    for end in done:
        if start <= end:
            timesteps[start : end + 1] = np.arange(end + 1 - start)
        start = end + 1
    return _OriginalPlan(visits, returns_to_go, timesteps, np.array(done))


def _write_original(
    writer: StoreWriter,
    parts: Mapping[int, LogBuffer],
    numbers: range,
    selection: Selection,
    num_workers: int,
    bar: Bar,
) -> Counter[int]:
    """Append what the original code's create_dataset returns; return how many episodes came from each buffer."""
    plan = _plan_original(parts, numbers, selection)
    counts: Counter[int] = Counter()
    jobs = (Job(number, partial(parts[number].stacked_frames, start, stops)) for number, start, stops in plan.visits)
    episodes = [number for number, _, stops in plan.visits for _ in stops]
    ends: list[int] = []
    with closing(in_order(jobs, num_workers)) as found:
        for number, (frames, actions, rewards) in zip(episodes, found, strict=True):
            steps = slice(writer.steps, writer.steps + len(actions))
            writer.append(
                frames[LEAD_IN:],
                actions,
                rewards,
                lead_in=frames[:LEAD_IN],
                timesteps=plan.timesteps[steps],
                returns_to_go=plan.returns_to_go[steps],
            )
            counts[number] += 1
            ends.append(writer.steps)
            bar.update(len(actions))
    if not np.array_equal(plan.done_idxs, ends):
        writer.source["original_done_idxs"] = plan.done_idxs.tolist()
    return counts


def ranges(numbers: Iterable[int]) -> str:
    """Numbers for people: ``0-3, 7``."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
