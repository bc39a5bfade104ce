"""Read files that were damaged at random; a program of tests/test_hostile_files.py.

Usage: ``python -m tests.hostile_files DIRECTORY SEED NUM_MUTATIONS TARGET…``. It prints one JSON object: the number of
mutations by target, file and damage, and a list of failures. A mutation may end in an InputError of one line, or in
data that is what it was before, or at least valid: `Target.read` checks it. Anything else is a failure: another
exception, more than 10 seconds, or more than 1 GB of memory.
"""

from __future__ import annotations

import faulthandler
import hashlib
import json
import random
import re
import resource
import signal
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from replay_data import InputError, StoreWriter, TrajectoryStore
from replay_data.recording import Recording
from replay_data.sources.dopamine_reader import DopamineLog
from replay_data.sources.dopamine_writer import DopamineLogWriter
from replay_data.sources.rl_unplugged import RLUnpluggedRun
from replay_data.store_metadata import StoreSource
from tests.mutations import ANY_FILE, BY_SUFFIX, Damage, damage_record, remove_path, replace_path

MEANINGS = ("NOOP", "FIRE", "RIGHT", "LEFT")
RECORDING = Recording("scripted", "Breakout", 120, 3, 0.25, 108_000, MEANINGS, "a" * 64, {"num_envs": 4})
SECONDS, BYTES = 10, 1 << 30


class Hang(BaseException):
    """A read took more than `SECONDS`; no ``except`` clause of a reader catches it."""


@dataclass(frozen=True)
class Target:
    """Files and their reader.

    Attributes:
        build: Function that writes the files into a new directory.
        read: Function from the directory and the path of the changed file to what was read, by name. It raises an
            AssertionError if that is not valid.
        checked: Pattern of the files whose bytes are covered by checksums: what is read from them never changes.
        kinds: Further kinds of damage, by pattern of file names.
        vouch: Function from the directory and the path of a changed array that writes its checksum into a JSON file.
    """

    build: Callable[[Path], None]
    read: Callable[[Path, Path], dict[str, Any]]
    checked: str = "$^"
    kinds: dict[str, dict[str, Damage]] = field(default_factory=dict)
    vouch: Callable[[Path, Path], None] | None = None


def build_store(directory: Path) -> None:
    rng = np.random.default_rng(0)
    source = StoreSource("dopamine", 1, {"method": "all"}, RECORDING, True, {0: 2, 47: 1}, None, details={"seed": 7})
    with StoreWriter(
        directory / "store",
        game="Breakout",
        action_meanings=MEANINGS,
        reward_clipping=True,
        sticky_actions=0.25,
        source=source,
    ) as writer:
        for steps in (3, 5, 2):
            raw = rng.integers(-3, 4, size=steps).astype(np.float32)
            frames = rng.integers(0, 256, (steps, 84, 84), np.uint8)
            ram = rng.integers(0, 256, (steps, 128), np.uint8)
            writer.append(frames, rng.integers(0, 4, steps), raw.clip(-1, 1), raw, terminated=steps != 5, ram=ram)


def read_store(directory: Path, _: Path) -> dict[str, Any]:
    store = TrajectoryStore.open(directory / "store")
    store.verify()
    assert json.dumps(store.metadata.to_json(), allow_nan=False)
    for start, end in zip(store.episode_starts.tolist(), store.episode_ends.tolist(), strict=True):
        steps = slice(start, end)
        assert start < end
        assert store.timesteps[steps].tolist() == list(range(end - start))
        assert np.array_equal(store.frame_index[steps], store.frame_index[start] + np.arange(end - start))
        assert all(store.state(step).shape == (4, 84, 84) for step in range(start, end))
    assert end == len(store)
    assert store.actions.max() < store.num_actions
    for rewards in (store.rewards, store.raw_rewards, store.returns_to_go):
        assert rewards is None or np.isfinite(rewards).all()
    arrays = ("frames", "frame_index", "actions", "rewards", "returns_to_go", "timesteps", "episode_ends")
    assert store.require_ram().shape == (len(store), 128)
    assert np.allclose(store.require_ram().mean(axis=0), store.metadata.ram_statistics.mean)  # type: ignore[union-attr]
    return {name: getattr(store, name).tobytes() for name in (*arrays, "ram")}


def vouch_for_array(directory: Path, path: Path) -> None:
    """Write the shape, dtype and SHA-256 of a changed array into the metadata."""
    metadata = directory / "store" / "metadata.json"
    content = json.loads(metadata.read_text())
    with suppress(Exception):  # NumPy raises nearly anything for a damaged file
        array = np.load(path)
        digest = hashlib.sha256(array.tobytes()).hexdigest()
        content["arrays"][path.stem] = {"dtype": array.dtype.name, "shape": list(array.shape), "sha256": digest}
        if path.stem == "returns_to_go":
            returns = array[np.array([0, 3, 8])]
            content |= {"max_return": float(returns.max()), "mean_return": float(returns.mean())}
        metadata.write_text(json.dumps(content))


def random_episodes() -> Iterator[dict[str, Any]]:
    rng = np.random.default_rng(0)
    for steps in (9, 30, 14, 21):
        raw = rng.integers(-3, 4, size=steps).astype(np.float32)
        frames = np.zeros((steps, 84, 84), np.uint8)
        frames[:, 40:44] = rng.integers(1, 256, (steps, 4, 84))
        yield {
            "frames": frames,
            "actions": rng.integers(0, 4, steps),
            "rewards": raw.clip(-1, 1),
            "raw_rewards": raw,
            "terminated": steps != 30,
            "ram": rng.integers(0, 256, (steps, 128), np.uint8),
        }


def build_log(directory: Path, recording: Recording | None = RECORDING) -> None:
    with DopamineLogWriter(directory / "log" / "Breakout" / "1" / "replay_logs", 40, recording=recording) as writer:
        for episode in random_episodes():
            writer.append(**episode)


def build_foreign_log(directory: Path) -> None:
    build_log(directory, None)


def describe_episodes(source: Any) -> dict[str, Any]:
    """Read all episodes and checksums of a recorded run."""
    read: dict[str, Any] = {}
    for index, shard in source.shards.items():
        returns = list(shard.returns())
        episodes = list(shard.episodes())
        assert len(returns) == len(episodes)
        for position, episode in enumerate(episodes):
            steps = len(episode)
            assert episode.frames.dtype == np.uint8
            assert episode.frames.shape == (steps, 84, 84)
            assert episode.actions.dtype == np.uint8
            assert steps > 0
            assert episode.actions.max() < len(MEANINGS)
            assert np.isfinite(episode.rewards).all()
            assert np.abs(episode.rewards).max() <= 1
            assert episode.raw_rewards is None or np.array_equal(episode.raw_rewards.clip(-1, 1), episode.rewards)
            arrays = (episode.frames, episode.actions, episode.rewards)
            if episode.ram is not None:
                assert episode.ram.shape == (steps, 128)
                read[f"{index}.{position} RAM"] = episode.ram.tobytes()
            read[f"{index}.{position}"] = (*(array.tobytes() for array in arrays), episode.terminated)
        assert shard.check(everything=True) in (True, False)
        shard.close()
    return read


def read_log(directory: Path, _: Path) -> dict[str, Any]:
    return describe_episodes(DopamineLog(directory / "log", "Breakout", 1, len(MEANINGS)))


def build_shard(directory: Path) -> None:
    from replay_data.episode import Episode
    from tests.replay_data.recordings import write_shard

    episodes = [Episode(**episode) for episode in random_episodes()]
    write_shard(directory / "shards" / "Breakout" / "run_1-00000-of-00002", episodes[:2])
    write_shard(directory / "shards" / "Breakout" / "run_1-00001-of-00002", episodes[2:])


def read_shard(directory: Path, _: Path) -> dict[str, Any]:
    return describe_episodes(RLUnpluggedRun(directory / "shards", "Breakout", 1, len(MEANINGS)))


TARGETS = {
    "store": Target(build_store, read_store, checked=r".*\.npy", vouch=vouch_for_array),
    "log": Target(build_log, read_log, checked=r".*(observation|action|reward|terminal|ram).*\.gz"),
    "foreign log": Target(build_foreign_log, read_log, checked=r".*(observation|action|reward|terminal|ram).*\.gz"),
    "shard": Target(
        build_shard,
        read_shard,
        checked="run_.*",
        kinds={"run_.*": {**BY_SUFFIX[".gz"], "record": damage_record}},
    ),
}


@contextmanager
def time_limit() -> Iterator[None]:
    def stop(signal_number: int, frame: FrameType | None) -> None:
        raise Hang

    previous = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    faulthandler.dump_traceback_later(2 * SECONDS, exit=True)  # for code that no signal interrupts
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def limit_memory() -> None:
    """Limit the address space to what is in use, and `BYTES` more."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))


def mutate(target: Target, directory: Path, rng: random.Random) -> tuple[Path, str, dict[Path, bytes]]:
    """Change one file; return its path, the kind of damage, and the original content to write back."""
    files = sorted(path for path in directory.rglob("*") if path.is_file() and path.name != ".lock")
    path = rng.choice(files)
    original = path.read_bytes()
    kinds = {**ANY_FILE, **BY_SUFFIX.get(path.suffix, {})}
    for pattern, more in target.kinds.items():
        kinds |= more if re.fullmatch(pattern, path.name) else {}
    special = [kind for kind in kinds if kind not in ANY_FILE]
    kind = rng.choice([*ANY_FILE, "replaced", *special * 4])
    if kind == "replaced":
        kind = replace_path(path, [other for other in files if other != path], rng)
    else:
        path.write_bytes(kinds[kind](original, rng))
        if target.vouch is not None and path.suffix == ".npy" and rng.random() < 0.5:
            contents = {other: other.read_bytes() for other in files if other.suffix == ".json"}
            target.vouch(directory, path)
            return path, f"{kind} with checksum", {**contents, path: original}
    return path, kind, {path: original}


def attempt(target: Target, directory: Path, path: Path, kind: str, truth: dict[str, Any]) -> tuple[str, str]:
    """Read the changed file; return the outcome, and for a failure what happened."""
    start = time.perf_counter()
    try:
        with time_limit():
            result = target.read(directory, path)
    except InputError as error:
        if len(str(error).splitlines()) != 1 or len(str(error)) > 2000:
            return "failure", f"a message of several lines or {len(str(error))} characters: {str(error)[:300]!r}"
        return "error", str(error)
    except (Exception, Hang) as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        return "failure", f"{type(error).__name__}: {str(error)[:200]} ({where.filename}:{where.lineno})"
    finally:
        if (seconds := time.perf_counter() - start) > 2:
            print(f"{path.name} {kind}: {seconds:.1f} s", file=sys.stderr)
    unchanged = all(result.get(name, value) == value for name, value in truth.items())
    unprotected = ("compressed content", "record", "extended", "truncated", "swapped", "missing")
    protected = kind not in unprotected and not kind.endswith("with checksum")
    if not unchanged and protected and re.fullmatch(target.checked, path.name):
        return "failure", "other data without an error"
    return "same data" if unchanged else "other data", ""


def main(directory: Path, seed: int, num_mutations: int, names: list[str]) -> None:
    warnings.simplefilter("error", RuntimeWarning)
    targets = dict(TARGETS)
    if not set(names) <= set(targets):
        from tests import hostile_runs  # which imports PyTorch

        targets |= hostile_runs.TARGETS
    truths: dict[str, dict[str, Any]] = {}
    for name in names:
        targets[name].build(directory / name)
        files = sorted(path for path in (directory / name).rglob("*") if path.is_file())
        truths[name] = {}
        for path in files:
            truths[name] |= targets[name].read(directory / name, path)
    limit_memory()
    counts: Counter[str] = Counter()
    failures: dict[str, str] = {}
    for index in range(num_mutations):
        name = names[index % len(names)]
        rng = random.Random(f"{seed} {index}")
        path, kind, originals = mutate(targets[name], directory / name, rng)
        damaged = None if not path.is_file() or path.stat().st_size > 1 << 24 else path.read_bytes()
        outcome, message = attempt(targets[name], directory / name, path, kind, truths[name])
        counts[f"{name} | {re.sub('[0-9]+', 'N', path.name)} | {kind} | {outcome}"] += 1
        if outcome == "failure":
            failures.setdefault(
                f"{name} {path.name} {kind} (mutation {index}): {message}", repr((damaged or b"")[:300])
            )
        for original_path, content in originals.items():
            remove_path(original_path)
            original_path.write_bytes(content)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"counts": counts, "failures": failures, "peak_kilobytes": peak}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
