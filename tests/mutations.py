"""Random damage to files: what a disk, a broken copy, an editor or an attacker leaves of them."""

from __future__ import annotations

import gzip
import io
import json
import os
import random
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from isal import isal_zlib

from replay_data.sources.tfrecord import write_record

HOSTILE_VALUES: tuple[Any, ...] = (
    *(None, True, False, "", "x", "7", "../../x", "/dev/zero", "a\0b", "\ud800", "x" * 100_000, [], {}, [[]], [None]),
    *({"x": [{}]}, [0] * 10_000, -1, 0, 1, 7, 300, 10**6, 2**31, 10**9, 2**63, 10**30, 10**400, -(2**63), 0.5, 1e308),
    *(float("inf"), -float("inf"), float("nan")),
)

HEADER_FIELDS = (
    *("{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000000000000000000000,), }", "   x\n y", "'''", ""),
    *("{'descr': '|O', 'fortran_order': False, 'shape': (7,), }", "(" * 500, "{}", "{'shape': (-1,)}", "\0" * 60),
    "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000, 84, 84), }",
    "{'descr': [('x', '<i4')], 'fortran_order': False, 'shape': (3,), }",
    "{'descr': '|u1', 'fortran_order': True, 'shape': (7, 2), }",
    "{'descr': '<i8', 'fortran_order': False, 'shape': (), }",
)


def damage_bytes(content: bytes, rng: random.Random) -> bytes:
    """Flip bits, or remove, repeat, insert or overwrite a block."""
    changed = bytearray(content)
    start = rng.randrange(len(content) + 1) if rng.random() < 0.5 else rng.randrange(min(len(content), 200) + 1)
    stop = min(len(content), start + rng.choice((1, 2, 4, 8, 100, 10_000)))
    damage = rng.randrange(8)
    if damage <= 2 and content:
        for _ in range(rng.choice((1, 1, 2, 8))):
            position = rng.randrange(len(content) if rng.random() < 0.5 else min(len(content), 200))
            changed[position] ^= 1 << rng.randrange(8)
    elif damage == 3:
        del changed[start:]
    elif damage == 4:
        changed[start:stop] = bytes(stop - start)
    elif damage == 5:
        changed[start:stop] = b"\xff" * (stop - start)
    elif damage == 6:
        changed[start:start] = rng.randbytes(rng.choice((1, 8, 1000))) if rng.random() < 0.5 else changed[start:stop]
    else:
        del changed[start:stop]
    return bytes(changed)


def truncate(content: bytes, rng: random.Random) -> bytes:
    """Keep the first bytes."""
    return content[: rng.randrange(len(content) + 1)]


def extend(content: bytes, rng: random.Random) -> bytes:
    """Append zeros, random bytes, or the content once more."""
    return content + rng.choice((bytes(rng.choice((1, 1000))), rng.randbytes(rng.choice((1, 1000))), content))


def _positions(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(inner for key, item in items for inner in _positions(item, (*path, key)))]


def _replace(value: Any, path: tuple[Any, ...], change: Callable[[Any], Any]) -> Any:
    if not path:
        return change(value)
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = _replace(value[path[0]], path[1:], change)
    return copy


def damage_value(value: Any, rng: random.Random) -> Any:
    """Replace, remove, scale or nest one of the values of a JSON value."""
    positions = _positions(value)
    path = positions[rng.randrange(len(positions))]

    def change(old: Any) -> Any:
        kind = rng.randrange(6)
        if kind == 0 and isinstance(old, (int, float)):
            return rng.choice((-old, old + 1, old - 1, old * 1000, float(old), str(old), [old]))
        if kind == 1 and isinstance(old, (list, dict)) and old:
            dropped = rng.randrange(len(old))
            if isinstance(old, dict):
                return {key: item for index, (key, item) in enumerate(old.items()) if index != dropped}
            return [*old[:dropped], *old[dropped + 1 :]]
        if kind == 2 and isinstance(old, (list, dict)):
            return [*old, *old] if isinstance(old, list) else {**old, "unknown": rng.choice(HOSTILE_VALUES)}
        if kind == 3:
            nested: Any = old
            for _ in range(rng.choice((1, 40, 200))):
                nested = [nested] if rng.random() < 0.5 else {"x": nested}
            return nested
        return rng.choice(HOSTILE_VALUES)

    return _replace(value, path, change)


def damage_json(content: bytes, rng: random.Random) -> bytes:
    """Change a value of a JSON file, or of a line of a file with one JSON value per line."""
    if rng.random() < 0.03:
        return rng.choice((b"[" * 200_000, b'{"x":' * 200_000, b"\xff\xfe{}", b"9" * 5000, b"null", b'"', b"{}\n{}"))
    try:
        return json.dumps(damage_value(json.loads(content), rng)).encode()
    except json.JSONDecodeError:
        lines = content.splitlines()
        index = rng.randrange(len(lines))
        lines[index] = json.dumps(damage_value(json.loads(lines[index]), rng)).encode()
        return b"\n".join(lines) + b"\n"


def damage_npy(content: bytes, rng: random.Random) -> bytes:
    """Write another header, or change a value of the array."""
    length = int.from_bytes(content[8:10], "little")
    header, values = content[10 : 10 + length], content[10 + length :]
    kind = rng.randrange(4)
    if kind == 0:
        header = rng.choice(HEADER_FIELDS).encode()
    elif kind == 1:
        numbers = (b"0", b"1", b"99", b"1000000000", b"-5", b"1" + b"0" * 25)
        old = header[header.index(b"(") + 1 : header.index(b")")]
        header = header.replace(old, rng.choice(numbers) + b"," + rng.choice((b"", b"2", b"84, 84")))
    elif kind == 2:
        header = damage_bytes(header, rng)[:60_000]
    else:
        values = damage_bytes(values, rng)
    return content[:8] + len(header).to_bytes(2, "little") + header + values


def damage_gzip(content: bytes, rng: random.Random) -> bytes:
    """Change the compressed content and compress it again; sometimes replace it by gigabytes of zeros."""
    inner = gzip.decompress(content)
    if rng.random() < 0.02:
        zeros = isal_zlib.compressobj(1, isal_zlib.DEFLATED, 31)  # 50 times as fast as zlib
        inner = inner[: rng.randrange(len(inner) + 1)]
        return zeros.compress(inner) + b"".join(zeros.compress(bytes(1 << 20)) for _ in range(64)) + zeros.flush()
    if inner.startswith(b"\x93NUMPY") and rng.random() < 0.5:
        inner = damage_npy(inner, rng)
    else:
        inner = rng.choice((damage_bytes, damage_bytes, truncate, extend))(inner, rng)
    return gzip.compress(inner, 1, mtime=0) if rng.random() < 0.95 else inner


def damage_record(content: bytes, rng: random.Random) -> bytes:
    """Change a record of a compressed TFRecord file, and write its checksums anew."""
    inner = gzip.decompress(content)
    records, position = [], 0
    while position < len(inner):
        length = int.from_bytes(inner[position : position + 8], "little")
        records.append(inner[position + 12 : position + 12 + length])
        position += length + 16
    index = rng.randrange(len(records))
    records[index] = rng.choice((damage_bytes, damage_bytes, damage_bytes, truncate, extend))(records[index], rng)
    changed = io.BytesIO()
    for record in records if rng.random() < 0.9 else records * 2:
        write_record(changed, record)
    return gzip.compress(changed.getvalue(), 1, mtime=0)


def damage_zip(content: bytes, rng: random.Random) -> bytes:
    """Change a member of a zip file and write its checksum anew."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    name = rng.choice(list(members))
    kind = rng.randrange(5)
    if kind == 0:
        del members[name]
    elif name.endswith(".npy") and kind == 1:
        members[name] = damage_npy(members[name], rng)
    elif name.endswith(".pth") and kind <= 3:  # a zip file itself
        members[name] = damage_zip(members[name], rng)
    elif name == "data" and kind <= 3:  # of an agent of Stable-Baselines3
        members[name] = damage_json(members[name], rng)
    else:
        members[name] = rng.choice((damage_bytes, damage_bytes, truncate, extend))(members[name], rng)
    changed = io.BytesIO()
    compression = zipfile.ZIP_STORED if rng.random() < 0.9 else zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(changed, "w", compression) as archive:
        for member, values in members.items():
            archive.writestr(member, values)
    return changed.getvalue()


def damage_safetensors(content: bytes, rng: random.Random) -> bytes:
    """Change the JSON header, or a value of a tensor."""
    length = int.from_bytes(content[:8], "little")
    header, values = content[8 : 8 + length], content[8 + length :]
    if rng.random() < 0.6:
        header = damage_json(header, rng)
    else:
        changed = bytearray(values)
        position = 4 * rng.randrange(len(values) // 4)
        changed[position : position + 4] = rng.choice((b"\0\0\xc0\x7f", b"\0\0\x80\x7f", b"\xff" * 4, rng.randbytes(4)))
        values = bytes(changed)
    size = len(header) if rng.random() < 0.9 else rng.choice((0, 2**40, 2**63, len(header) + 8))
    return size.to_bytes(8, "little") + header + values


Damage = Callable[[bytes, random.Random], bytes]

ANY_FILE: dict[str, Damage] = {"bytes": damage_bytes, "truncated": truncate, "extended": extend}
BY_SUFFIX: dict[str, dict[str, Damage]] = {
    ".json": {"JSON": damage_json},
    ".jsonl": {"JSON": damage_json},
    ".npy": {"array": damage_npy},
    ".gz": {"compressed content": damage_gzip},
    ".npz": {"member": damage_zip},
    ".pt": {"member": damage_zip},
    ".pth": {"member": damage_zip},
    ".zip": {"member": damage_zip},
    ".safetensors": {"tensor": damage_safetensors},
}


def replace_path(path: Path, others: list[Path], rng: random.Random) -> str:
    """Put something else in the place of a file; return what."""
    content = path.read_bytes()
    path.unlink()
    kind = rng.choice(("missing", "directory", "named pipe", "device", "empty", "dangling link", "sparse", "swapped"))
    if kind == "directory":
        path.mkdir()
    elif kind == "named pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "dangling link":
        path.symlink_to(path.with_name("nowhere"))
    elif kind == "sparse":
        path.write_bytes(content)
        os.truncate(path, 1 << 40)
    elif kind == "swapped" and others:
        path.write_bytes(rng.choice(others).read_bytes())
    elif kind != "missing":
        path.write_bytes(b"")
    return kind


def remove_path(path: Path) -> None:
    """Remove whatever `replace_path` put in the place of a file."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
