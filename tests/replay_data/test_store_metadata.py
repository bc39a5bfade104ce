"""``metadata.json``: it round-trips, old versions are read, and malformed content is an InputError."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replay_data import InputError, TrajectoryStore
from replay_data.recording import Recording
from replay_data.store_metadata import ArrayInfo, StoreMetadata, StoreSource, read_metadata
from replay_data.testing import write_random_store
from tests.conftest import DATA

TEXT = st.text(max_size=8)
INTEGERS = st.integers(-(10**12), 10**12)
COUNTS = st.integers(0, 10**12)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
PROBABILITIES = st.floats(0, 1)
GAMES = st.sampled_from(["Breakout", "MsPacman", "Pitfall2", "Tic Tac Toe"])
MEANINGS = st.lists(TEXT, min_size=1, max_size=4).map(tuple)
SCALARS = st.none() | st.booleans() | INTEGERS | FLOATS | TEXT
RECORDINGS = st.builds(
    Recording,
    agent=TEXT,
    game=GAMES,
    num_steps=COUNTS,
    seed=COUNTS,
    sticky_actions=PROBABILITIES,
    max_frames=COUNTS,
    action_meanings=MEANINGS,
    rom_sha256=TEXT,
    settings=st.dictionaries(TEXT, SCALARS, max_size=4),
    versions=st.dictionaries(TEXT, TEXT, max_size=3),
)


def sources(origins: st.SearchStrategy[StoreSource | None]) -> st.SearchStrategy[StoreSource]:
    return st.builds(
        StoreSource,
        format=TEXT,
        run=st.none() | COUNTS,
        selection=st.dictionaries(TEXT, SCALARS, max_size=3),
        recording=st.none() | RECORDINGS,
        verified=st.none() | st.booleans(),
        episodes_per_shard=st.dictionaries(st.integers(0, 99), COUNTS, max_size=4),
        original_done_idxs=st.none() | st.lists(COUNTS, max_size=4).map(tuple),
        details=st.dictionaries(TEXT, SCALARS, max_size=4),
        origin=origins,
    )


SOURCES = sources(st.none() | sources(st.none()))
DIGESTS = st.text("0123456789abcdef", min_size=64, max_size=64)
ARRAYS = st.builds(ArrayInfo, dtype=TEXT, shape=st.lists(COUNTS, max_size=3).map(tuple), sha256=DIGESTS)
METADATA = st.builds(
    StoreMetadata,
    game=GAMES,
    action_meanings=MEANINGS,
    reward_clipping=st.booleans(),
    sticky_actions=st.none() | PROBABILITIES,
    source=SOURCES,
    steps=st.integers(1, 10**12),
    episodes=st.integers(1, 10**12),
    max_return=FLOATS,
    mean_return=FLOATS,
    arrays=st.dictionaries(TEXT, ARRAYS, max_size=3),
    max_score=st.none() | FLOATS,
    mean_score=st.none() | FLOATS,
)

JUNK: tuple[Any, ...] = (
    *(None, True, -1, 0.5, 10**400, float("inf"), float("nan"), "", "x"),
    *([], [[]], [None, 1], {}, {"x": [{}]}, {"format": {}}, {"kind": []}),
)


@settings(max_examples=30)
@given(METADATA)
def test_metadata_round_trips(metadata: StoreMetadata) -> None:
    assert StoreMetadata.from_json(metadata.to_json()) == metadata
    assert StoreMetadata.from_json(json.loads(json.dumps(metadata.to_json()))) == metadata


def paths_of_fields(content: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of every value in nested JSON, the outermost first."""
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return [path, *(inner for key, value in items for inner in paths_of_fields(value, (*path, key)))]


def replace_field(content: Any, path: tuple[Any, ...], value: Any) -> Any:
    """Return a copy of nested JSON with another value at ``path``."""
    if not path:
        return value
    copy = dict(content) if isinstance(content, dict) else list(content)
    copy[path[0]] = replace_field(content[path[0]], path[1:], value)
    return copy


def remove_field(content: Any, path: tuple[Any, ...]) -> Any:
    """Return a copy of nested JSON without the key or item at ``path``."""
    copy = dict(content) if isinstance(content, dict) else list(content)
    if len(path) == 1:
        del copy[path[0]]
    else:
        copy[path[0]] = remove_field(content[path[0]], path[1:])
    return copy


def store_of_version(version: int, path: Path) -> Any:
    """Write a store of a format version; return the content of its metadata, with a source that has all fields."""
    if version == 1:
        shutil.copytree(DATA / "version_1" / "store", path)
        source = json.loads((DATA / "version_1" / "built_metadata.json").read_text())["source"]
        source |= {"episodes_per_part": {"0": 1, "47": 1}, "original_done_idxs": [4], "seed": 7}
    else:
        write_random_store(path, [3, 4])
        recording = Recording("a", "b", 1, 2, 0.5, 3, ("NOOP",), "c", {"epochs": 1}, {"numpy": "2"})
        source = StoreSource(
            "dopamine", 1, {"method": "all"}, recording, True, {0: 1, 47: 1}, (4,), {"seed": 7}
        ).to_json()
    return json.loads((path / "metadata.json").read_text()) | {"source": source}


@pytest.mark.parametrize("version", [1, 2])
def test_malformed_metadata_is_an_input_error_of_one_line(version: int, tmp_path: Path) -> None:
    """Replace and remove every field: the store opens, or an InputError names it."""
    path = tmp_path / "store"
    content = store_of_version(version, path)
    optional = {"max_score", "mean_score", "observations"}
    for field in paths_of_fields(content):
        if field[0:1] == ("arrays",) and len(field) > 1 and field[1] not in ("frames", "episode_ends"):
            continue  # the same code reads all arrays
        variants = [(junk, replace_field(content, field, junk)) for junk in JUNK]
        variants += [("missing", remove_field(content, field))] if field else []
        for junk, variant in variants:
            (path / "metadata.json").write_text(json.dumps(variant))
            try:
                TrajectoryStore.open(path)
            except InputError as error:
                (message,) = str(error).splitlines()
                assert str(path) in message
            else:
                assert field, f"{junk} instead of the whole file"
                assert junk != "missing" or len(field) > 1 or field[0] in optional, f"{field} is missing"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 99}, "has store format 99, but"),
        ({"format_version": True}, "format_version is True, not of type int"),
        ({"format_version": "2"}, "format_version is '2'"),
        ({"arrays": None}, "arrays is None"),
        ({"action_meanings": None}, "action_meanings is None"),
        ({"action_meanings": ["NOOP", 1]}, "an item of action_meanings is 1"),
        ({"reward_clipping": 1}, "reward_clipping is 1"),
        ({"max_return": "x"}, "max_return is 'x'"),
        ({"max_return": 10**400}, "max_return is too large"),
        ({"steps": 7.0}, "steps is 7.0"),
        ({"source": {"format": "dopamine", "selection": []}}, "selection is a list, not an object"),
        ({"source": {"format": "dopamine", "details": {"x": {}}}}, "x of details is an object"),
        ({"source": {"kind": 1}}, "format is 1"),
        ({"source": {"format": "dopamine", "run": -1}}, "run is -1, but must be at least 0"),
        ({"source": {"format": "dopamine", "episodes_per_shard": {"0": -1}}}, "0 is -1"),
        ({"game": 7}, "game is 7"),
        ({"game": "../Pong"}, "'../Pong', which is not the name of a game"),
        ({"action_meanings": "NOOP"}, "action_meanings is 'NOOP', not a list"),
        ({"action_meanings": []}, "number of action_meanings is 0"),
        ({"sticky_actions": 7}, "sticky_actions is 7.0, but must be between 0 and 1"),
        ({"sticky_actions": float("nan")}, "sticky_actions is nan"),
        ({"steps": -7}, "steps is -7"),
        ({"episodes": 0}, "episodes is 0"),
        ({"max_return": float("inf")}, "max_return is inf, not a finite number"),
        ({"arrays": {"frames": {"dtype": "uint8", "shape": [-1], "sha256": "0" * 64}}}, "an item of shape is -1"),
        ({"arrays": {"frames": {"dtype": "uint8", "shape": [1], "sha256": "x"}}}, "not 64 hexadecimal digits"),
    ],
)
def test_malformed_field_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    write_random_store(tmp_path / "store", [3, 4])
    file = tmp_path / "store" / "metadata.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(InputError, match=message):
        read_metadata(tmp_path / "store")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "metadata.json cannot be read .JSONDecodeError"),
        (b"{", "metadata.json cannot be read .JSONDecodeError"),
        (b"\xff\xfe\xfd", "metadata.json cannot be read .UnicodeDecodeError"),
        (b"[" * 100_000, "metadata.json cannot be read .ValueError: it is nested too deeply"),
        (
            b'{"format_version": 1, "source": ' + b'{"x":' * 100_000,
            "metadata.json cannot be read .ValueError: it is nested too deeply",
        ),
        (b'{"format_version": ' + b"9" * 5000 + b"}", "metadata.json cannot be read .ValueError|has store format 9"),
        (b'{"format_version": 1, "game": "Pong"}', "KeyError: 'action_meanings'"),
        (b"[]", "a list is where an object should be"),
        (b"null", "None is where an object should be"),
    ],
)
def test_malformed_file_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "metadata.json").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_metadata(tmp_path)


def test_version_1_metadata_has_the_fields_of_version_2() -> None:
    content = json.loads((DATA / "version_1" / "built_metadata.json").read_text())
    source = StoreMetadata.from_json(content).source
    assert (source.format, source.run, source.selection, source.verified) == ("dopamine", 1, {"method": "all"}, True)
    assert source.episodes_per_shard == {int(k): v for k, v in content["source"]["episodes_per_part"].items()}
    assert source.recording is not None
    assert source.recording.agent == "scripted"
    assert source.recording.settings == {}
    assert source.details == {}


def test_version_1_source_may_have_any_fields() -> None:
    source = StoreSource.from_json({"protocol": "mine", "seed": 3, "versions": {"numpy": "2"}})
    assert source.format == "unknown"
    assert source.details == {"protocol": "mine", "seed": 3, "versions": '{"numpy": "2"}'}
    assert StoreSource.from_json(source.to_json()) == source


def test_version_1_source_has_no_origin() -> None:
    source = StoreSource.from_json({"kind": "mine", "origin": {"place": "here"}})
    assert source == StoreSource("mine", details={"origin": '{"place": "here"}'})


def test_first_origin_is_that_of_the_first_store() -> None:
    first = StoreSource("rl_unplugged", 1)
    assert first.first_origin is first
    second = StoreSource("store", origin=first)
    third = StoreSource("store", origin=second)
    assert third.first_origin is first
    assert third.origins == [first, second, third]
