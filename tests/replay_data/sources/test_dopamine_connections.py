"""Saves of one circular buffer at any time, read back against a simulation of the buffer in plain Python."""

from __future__ import annotations

import gzip
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replay_data import InputError, ReplayFormatError
from replay_data.episode import Episode
from replay_data.selection.methods import SelectionMethod
from replay_data.sources import dopamine_rows
from tests.replay_data.recordings import build, open_log

PADDING = (0, 0, 0.0, 0)


@dataclass(frozen=True)
class Run:
    """Rows in the order they were added (gray level of the frame, action, reward, terminal), and their episodes.

    Attributes:
        rows: All rows, padding included.
        spans: First padding row, exclusive end, and whether it terminated, of each episode.
    """

    rows: list[tuple[int, int, float, int]]
    spans: list[tuple[int, int, bool]]

    @classmethod
    def of(cls, lengths: Iterable[tuple[int, bool]], seed: int = 0) -> Run:
        """Play episodes of these numbers of steps, terminated or truncated."""
        rng = np.random.default_rng(seed)
        rows: list[tuple[int, int, float, int]] = []
        spans = []
        for steps, terminated in lengths:
            start = len(rows)
            rows += [PADDING] * 3
            for step in range(steps):
                done = terminated and step == steps - 1
                rows.append((int(rng.integers(1, 256)), int(rng.integers(4)), float(rng.integers(-1, 2)), int(done)))
            spans.append((start, len(rows), terminated))
        return cls(rows, spans)

    def memory(self, count: int, num_slots: int) -> list[tuple[int, int, float, int]]:
        """Return the slots of a circular buffer after ``count`` rows were added."""
        slots = [PADDING] * num_slots
        for number, row in enumerate(self.rows[:count]):
            slots[number % num_slots] = row
        return slots

    def whole_episodes(self, start: int, stop: int) -> list[tuple[int, int, bool]]:
        """Return the episodes that rows ``start`` to ``stop - 1`` show from their first padding row to their end.

        A terminal is an end. A truncation shows where three rows of padding and a step follow.
        """
        return [
            (first, end, terminated)
            for first, end, terminated in self.spans
            if first >= start and (end <= stop if terminated else end + 4 <= stop)
        ]

    def check(self, found: list[Episode], expected: list[tuple[int, int, bool]]) -> None:
        """Compare every step of the episodes found with those played."""
        assert [len(episode) for episode in found] == [end - first - 3 for first, end, _ in expected]
        for episode, (first, end, terminated) in zip(found, expected, strict=True):
            steps = list(zip(*self.rows[first + 3 : end], strict=True))
            assert episode.frames[:, 0, 0].tolist() == list(steps[0])
            assert episode.actions.tolist() == list(steps[1])
            assert episode.rewards.tolist() == list(steps[2])
            assert episode.terminated == terminated


def save(path: Path, index: int, slots: list[tuple[int, int, float, int]], add_count: int | None) -> None:
    """Write one file of run 1 of Breakout."""
    directory = path / "Breakout" / "1" / "replay_logs"
    directory.mkdir(parents=True, exist_ok=True)
    gray, actions, rewards, terminals = (np.array(values) for values in zip(*slots, strict=True))
    arrays: dict[str, npt.NDArray[Any]] = {
        "$store$_observation": np.broadcast_to(gray.astype(np.uint8)[:, None, None], (len(slots), 84, 84)),
        "$store$_action": actions.astype(np.int32),
        "$store$_reward": rewards.astype(np.float32),
        "$store$_terminal": terminals.astype(np.uint8),
    }
    if add_count is not None:
        arrays["add_count"] = np.array(add_count)
    for name, array in arrays.items():
        with gzip.open(directory / f"{name}_ckpt.{index}.gz", "wb", compresslevel=1) as file:
            np.save(file, array)


def save_public_run(path: Path, run: Run, num_slots: int, first: int = 0, counts: bool = True) -> int:
    """Write the files of a run, as in the public data, from number ``first`` on; return how many there are."""
    saved = range(num_slots - 1, len(run.rows) + 1, num_slots)
    for index, count in enumerate(saved):
        if index >= first:
            save(path, index, run.memory(count, num_slots), count if counts else None)
    return len(saved)


def read(path: Path) -> list[Episode]:
    """Return every whole episode of a log, and compare all checksums."""
    episodes = []
    for buffer in open_log(path).shards.values():
        episodes += list(buffer.episodes())
        buffer.check(everything=True)
        buffer.close()
    return episodes


LENGTHS = st.lists(st.tuples(st.integers(1, 12), st.booleans()), min_size=1, max_size=12)


@settings(max_examples=20, deadline=None)
@given(
    lengths=LENGTHS,
    num_slots=st.integers(5, 40),
    gaps=st.lists(st.integers(1, 30), min_size=1, max_size=8),
    chunk=st.integers(1, 20),
    seed=st.integers(0, 1000),
)
def test_saves_at_any_time_give_every_whole_episode_once(
    tmp_path_factory: pytest.TempPathFactory,
    lengths: list[tuple[int, bool]],
    num_slots: int,
    gaps: list[int],
    chunk: int,
    seed: int,
) -> None:
    path, run = tmp_path_factory.mktemp("log"), Run.of(lengths, seed)
    counts = [int(count) for count in np.cumsum(gaps) if count <= len(run.rows)] or [len(run.rows)]
    for index, count in enumerate(counts):
        save(path, index, run.memory(count, num_slots), count)
    expected, start = [], 0
    for index, count in enumerate(counts):
        if count - num_slots > (counts[index - 1] if index else 0):  # rows were overwritten before this save
            start = count - num_slots
            behind = run.rows[start : start + (-1 - start) % num_slots]  # from the cursor on, without the last slot
            if not any(any(row[1:]) for row in behind):
                start += len(behind)  # zeros are taken for rows that were never played
            start += start % num_slots == num_slots - 1  # a row in the last slot is not worth its own pass
        if index == len(counts) - 1 or counts[index + 1] - num_slots > count:
            expected += run.whole_episodes(start, count)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dopamine_rows, "CHUNK_ROWS", chunk)
        run.check(read(path), expected)


@settings(max_examples=20, deadline=None)
@given(
    lengths=LENGTHS,
    num_slots=st.integers(5, 20),
    behind=st.sampled_from(["old rows", "zeros", "zeros and no link row"]),
    has_first=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_the_rest_of_a_run_is_read_up_to_its_cursor(
    tmp_path_factory: pytest.TempPathFactory,
    lengths: list[tuple[int, bool]],
    num_slots: int,
    behind: str,
    has_first: bool,
    seed: int,
) -> None:
    path, run = tmp_path_factory.mktemp("log"), Run.of([(2 * num_slots, True), *lengths], seed)
    num_full, cursor = save_public_run(path, run, num_slots, 0 if has_first else 1), len(run.rows) % num_slots
    rest, link = run.memory(len(run.rows), num_slots), num_slots - 1
    if behind != "old rows":
        rest[cursor:link] = [PADDING] * (link - cursor)
    if behind == "zeros and no link row":
        rest[link] = PADDING
    save(path, num_full, rest, cursor)

    whole = run.whole_episodes(0 if has_first else num_slots, len(run.rows))
    link_number = num_full * num_slots - 1
    crossing = [span for span in whole if span[0] <= link_number and span[1] + (not span[2]) * 4 > link_number]
    found = read(path)
    # If all that is there could be a buffer of zeros, the episode that needs the link row may be left out.
    has_proof = any(row[1:] != PADDING[1:] for row in rest[cursor:])
    left_out = [] if has_proof or len(found) == len(whole) else crossing
    run.check(found, [span for span in whole if span not in left_out])


def remove(path: Path, pattern: str) -> None:
    """Remove files of a log."""
    for file in (path / "Breakout" / "1" / "replay_logs").glob(pattern):
        file.unlink()


def test_a_draw_is_the_same_with_and_without_file_50(tmp_path: Path) -> None:
    num_slots = 40
    run = Run.of([(5 + index % 4, index % 7 != 0) for index in range(213)])
    count, link = len(run.rows), 50 * num_slots - 1
    cursor = count - 50 * num_slots
    assert 0 < cursor < 24  # at least 16 old rows follow
    rest = run.memory(count, num_slots)
    zeros = [*rest[:cursor], *[PADDING] * (num_slots - cursor)]
    logs: dict[str, tuple[list[tuple[int, int, float, int]], int | None, bool]] = {
        "as in the public data": (rest, cursor, True),
        "without counts": (rest, None, True),
        "with the count of all rows": (rest, count, True),
        "with zeros behind the cursor": ([*zeros[:-1], rest[-1]], cursor, True),
        "with zeros in all of these slots": (zeros, cursor, False),
        "cut off behind the cursor": (rest[:cursor], cursor, False),
    }
    save_public_run(tmp_path / "without", run, num_slots, first=44)
    without = open_log(tmp_path / "without")
    draws: list[tuple[SelectionMethod, dict[str, Any]]] = [
        ("original", {"num_steps": 60, "trajectories_per_buffer": 0, "seed": 1}),
        ("original", {"num_steps": 60, "trajectories_per_buffer": 0, "num_buffers": 3}),
        ("corrected", {"num_steps": 60, "trajectories_per_buffer": 0}),
        ("even", {"num_steps": 60}),
    ]
    digests = [
        build(tmp_path / f"store {position}", without, method, **options).digest
        for position, (method, options) in enumerate(draws)
    ]
    for name, (slots, add_count, connected) in logs.items():
        path = tmp_path / name
        save_public_run(path, run, num_slots, first=44, counts=add_count is not None)
        save(path, 50, slots, add_count)
        log = open_log(path)
        assert (list(log.shards), log.num_shards, log.missing) == (list(range(44, 50)), 50, set(range(44)))
        note = "buffer 50 is the unfinished rest of the run; it belongs to buffer 49"
        assert [text.split(",")[0] for text in log.notes] == [note]
        for position, (method, options) in enumerate(draws):
            assert build(path / f"store {position}", log, method, **options).digest == digests[position]
        expected = [
            (first, end, terminated)
            for first, end, terminated in run.whole_episodes(44 * num_slots, count)
            if connected or end + 4 * (not terminated) <= link or first > link
        ]
        run.check(read(path), expected)
        store = build(path / "all", log, "all", num_buffers=1)
        assert store.metadata.source.episodes_per_shard == {
            49: sum(first >= link + 1 - num_slots for first, _, _ in expected)
        }


def test_the_rest_is_read_without_the_buffer_before_it(tmp_path: Path) -> None:
    run, num_slots = Run.of([(5, True)] * 16), 40
    save_public_run(tmp_path, run, num_slots)
    save(tmp_path, 3, run.memory(len(run.rows), num_slots), len(run.rows) % num_slots)
    remove(tmp_path, "*.2.gz")
    log = open_log(tmp_path)
    assert log.notes == (
        "buffer 3 is the unfinished rest of the run; it belongs to buffer 1, but the files do not show that it "
        "follows, so the episode between them is left out",
    )
    assert 3 not in log.missing
    run.check(read(tmp_path), [*run.whole_episodes(0, 79), *run.whole_episodes(120, 128)])
    for index in (0, 1):
        remove(tmp_path, f"*.{index}.gz")
    run.check(read(tmp_path), run.whole_episodes(120, 128))
    save(tmp_path, 50, run.memory(len(run.rows), num_slots), 8)
    remove(tmp_path, "*.3.gz")
    with pytest.raises(InputError, match="only shards 50, but its last 50 of 50 are 0-49; use another `selection`"):
        build(tmp_path / "store", open_log(tmp_path), "original")
    remove(tmp_path, "add_count*")
    with pytest.raises(ReplayFormatError, match=r"holds no rows to read: buffer 50 has no add_count"):
        open_log(tmp_path)


def test_damage_in_the_rest_is_named_where_it_is_read(tmp_path: Path) -> None:
    run, num_slots = Run.of([(5, True)] * 16), 40
    num_full = save_public_run(tmp_path, run, num_slots)
    save(tmp_path, num_full, run.memory(len(run.rows), num_slots), len(run.rows) % num_slots)
    file = tmp_path / "Breakout" / "1" / "replay_logs" / "$store$_observation_ckpt.3.gz"
    file.write_bytes(file.read_bytes()[:-300])
    assert build(tmp_path / "even", open_log(tmp_path), "even", num_steps=3).num_episodes == 3
    with pytest.raises(ReplayFormatError, match=r"observation_ckpt\.3\.gz"):
        build(tmp_path / "all", open_log(tmp_path), "all")


def test_files_of_several_runs_are_not_joined(tmp_path: Path) -> None:
    lengths = [(6, True), (9, False), (7, True), (12, True), (5, True), (8, False), (9, True), (6, True)]
    runs, num_slots = [Run.of(lengths, seed) for seed in (1, 2)], 30
    for number, run in enumerate(runs):
        for index, count in enumerate((29, 59, 80)):
            save(tmp_path, 3 * number + index, run.memory(count, num_slots), count)
    found = read(tmp_path)
    expected = [run.whole_episodes(0, 80) for run in runs]
    runs[0].check(found[: len(expected[0])], expected[0])
    runs[1].check(found[len(expected[0]) :], expected[1])


def test_a_run_that_was_started_again_is_read_from_where_it_differs(tmp_path: Path) -> None:
    lengths = [(6, True), (9, True), (7, True), (12, True), (5, True), (8, True)]
    old, new = Run.of(lengths), Run.of(lengths)
    new.rows[40:] = Run.of(lengths, 5).rows[40:]  # from the middle of the fourth episode on
    for index, (run, count) in enumerate([(old, 30), (new, 45), (new, 60), (old, 65)]):
        save(tmp_path, index, run.memory(count, 100), count)
    found = read(tmp_path)
    new.check(found[:5], new.whole_episodes(0, 60))
    old.check(found[5:], old.whole_episodes(31, 65))  # the fourth episode of the old run ends in another way
    assert open_log(tmp_path).notes[0] == (
        "buffers 2 and 3 are not of one run, or the run was started again: their rows or counts contradict each other; "
        "no episode is joined across them"
    )


def test_another_run_keeps_its_first_episodes(tmp_path: Path) -> None:
    runs = [Run.of([(9, True)] * 20, seed) for seed in (1, 2)]
    for index, (run, count) in enumerate([(runs[0], 60), (runs[0], 130), (runs[1], 70), (runs[1], 140)]):
        save(tmp_path, index, run.memory(count, 100), count)
    found = read(tmp_path)
    expected = [run.whole_episodes(0, count) for run, count in zip(runs, (130, 140), strict=True)]
    runs[0].check(found[: len(expected[0])], expected[0])
    runs[1].check(found[len(expected[0]) :], expected[1])


def test_a_beginning_that_only_blank_rows_show_is_uncertain(tmp_path: Path) -> None:
    run = Run.of([(9, True)] * 8)
    run.rows[15] = PADDING  # the first step of the second episode is black
    save(tmp_path, 0, run.memory(63, 50), 63)  # from the second padding row of that episode on
    assert [episode.num_uncertain_ends for episode in read(tmp_path)] == [1, 0, 0, 0]


def test_saves_of_one_buffer_in_an_unknown_order_are_refused(tmp_path: Path) -> None:
    run = Run.of([(20, True)] * 40)
    for name, counts in {"short": (120, 190), "wrapped": (350, 420, 480)}.items():
        for first in (0, 3, 51 - len(counts)):
            path = tmp_path / f"{name} {first}"
            for index, count in enumerate(counts, first):
                save(path, index, run.memory(count, 200), None)
            with pytest.raises(ReplayFormatError, match=r"only add_count tells their order; copy the add_count_ckpt\."):
                open_log(path)
    for index, count in enumerate((350, 500, 300)):
        save(tmp_path, index, run.memory(count, 200), count)
    with pytest.raises(ReplayFormatError, match=r"buffer 2 .* before buffer 0 .* ascend with their add_count"):
        open_log(tmp_path)


def test_files_without_new_rows_are_left_out(tmp_path: Path) -> None:
    run = Run.of([(6, True)] * 12)
    for index, count in enumerate((0, 35, 35, 20, None, 70)):
        save(tmp_path, index, run.memory(count or 70, 50), count)
    log = open_log(tmp_path)
    assert list(log.shards) == [1, 5]
    assert log.missing == set(range(6, 50))
    assert [note.split(";")[0] for note in log.notes[:4]] == [
        "buffer 0 was saved before any row was added",
        "buffer 2 holds no row that the files before it do not hold",
        "buffer 3 holds no row that the files before it do not hold",
        "buffer 4 has no add_count, and the counts of other files show that it is no public log",
    ]
    run.check(read(tmp_path), run.whole_episodes(0, 70))
    remove(tmp_path, "*.[1-5].gz")
    with pytest.raises(ReplayFormatError, match="holds no rows to read: buffer 0 was saved before any row was added"):
        open_log(tmp_path)


def test_every_selection_reads_checkpoints_once(tmp_path: Path) -> None:
    run = Run.of([(5 + index % 3, True) for index in range(40)])
    counts = (80, 160, 240, 320)
    for index, count in enumerate(counts):
        save(tmp_path, index, run.memory(count, 150), count)
    log = open_log(tmp_path)
    assert log.notes == (
        "the files are saves of one circular buffer, as Dopamine's checkpoints are; the original selection reads rows "
        "that they share again, the others read each row once",
    )
    played = [tuple(row[1] for row in run.rows[first + 3 : end]) for first, end, _ in run.whole_episodes(0, 320)]
    assert len(set(played)) == len(played)
    selections: list[tuple[SelectionMethod, dict[str, Any]]] = [
        ("all", {}),
        ("top", {"top_episode_percent": 100}),
        ("even", {"num_steps": 160}),
        ("corrected", {"num_steps": 160, "trajectories_per_buffer": 1}),
    ]
    for method, options in selections:
        store = build(tmp_path / method, log, method, **options)
        spans = zip(store.episode_starts, store.episode_ends, strict=True)
        found = [tuple(store.actions[start:end]) for start, end in spans]
        assert len(set(found)) == len(found)
        assert set(found) <= set(played)
        assert len(found) == len(played) or method in ("even", "corrected")
