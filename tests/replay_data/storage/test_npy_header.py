"""Headers of ``.npy`` files: the same shapes and dtypes as NumPy reads, and one kind of error for everything else."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replay_data.storage.npy_header import read_npy_header

HEADER = "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 84), }"


def npy(header: str, version: int = 1) -> bytes:
    """Return a ``.npy`` file that ends after its header."""
    text = header.encode("latin-1")
    return b"\x93NUMPY" + bytes([version, 0]) + len(text).to_bytes(2 if version == 1 else 4, "little") + text


@settings(max_examples=100, deadline=None)
@given(
    shape=st.lists(st.integers(0, 5), max_size=4),
    dtype=st.sampled_from(["?", "u1", "<i4", ">i8", ">u2", "<f2", ">f4", "<f8"]),
    version=st.sampled_from([(1, 0), (2, 0), (3, 0)]),
)
@pytest.mark.filterwarnings("ignore:Stored array in format")
def test_headers_that_numpy_writes_are_read(shape: list[int], dtype: str, version: tuple[int, int]) -> None:
    array = np.zeros(shape, dtype)
    file = io.BytesIO()
    np.lib.format.write_array(file, array, version)
    file.seek(0)
    assert read_npy_header(file) == (array.shape, array.dtype)
    assert len(file.read()) == array.nbytes


@pytest.mark.parametrize(
    "header",
    [
        '{"shape": (3,84), "descr": "<f4", "fortran_order": False}',  # as other languages write it
        "{'descr':'<f4','fortran_order':False,'shape':(3L, 84L),}\n",  # as Python 2 wrote it
        HEADER + " " * 9000,
    ],
)
def test_headers_of_other_writers_are_read(header: str) -> None:
    assert read_npy_header(io.BytesIO(npy(header))) == ((3, 84), np.dtype("<f4"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK\x03\x04 something else", "it is no .npy file"),
        (npy(HEADER, 4), "version 4.0, not 1.0"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + bytes(100), "claims to have 4,294,967,295 bytes"),
        (npy(HEADER.replace("(3, 84)", "(3)")), "no valid shape"),
        (npy(HEADER.replace("3,", "-3,")), "no valid .npy header"),
        (npy(HEADER.replace("3,", "True,")), "no valid .npy header"),
        (npy(HEADER.replace("84", "1" + "0" * 30)), "no valid shape"),
        (npy(HEADER.replace("3, 84", "9" * 19 + ",")), "claims the shape [9999999999999999999], which no memory"),
        (npy(HEADER.replace("3, 84", "0, " + "9" * 19)), "which no memory holds"),
        (npy(HEADER.replace("3, 84", "4000000000, 4000000000")), "which no memory holds"),
        (npy(HEADER.replace("3, 84", "1," * 33)), "no valid shape"),
        (npy(HEADER.replace("False", "True")), "Fortran order"),
        (npy(HEADER.replace("<f4", "|O")), "dtype '|O'"),
        (npy(HEADER.replace("<f4", "<f5")), "dtype '<f5'"),
        (npy(HEADER.replace("<f4", "<U9")), "dtype '<U9'"),
        (npy(HEADER.replace("'<f4'", "[('a', '<f4')]")), "no valid .npy header"),
        (npy(HEADER.replace("'descr'", "'shape'")), "no valid .npy header"),
        (npy(HEADER.replace("}", "'more': True}")), "no valid .npy header"),
        (npy(HEADER * 2), "no valid .npy header"),
        (npy(" " + HEADER[:-1]), "no valid .npy header"),  # NumPy's parser raises IndentationError, TokenError, …
        (npy("{'descr': " + "(" * 5000), "no valid .npy header"),
        (npy("-" * 9999 + "1"), "no valid .npy header"),
        (npy(""), "no valid .npy header"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_headers_are_value_errors(content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        read_npy_header(io.BytesIO(content))


def test_a_mangled_header_is_refused_or_read_as_numpy_reads_it() -> None:
    rng = np.random.default_rng(0)
    original = npy(HEADER + " " * 20)
    read = 0
    for _ in range(2000):
        content = bytearray(original)
        for position in rng.integers(0, len(content), size=rng.integers(1, 4)):
            content[position] = rng.choice([rng.integers(256), *b"0123456789'{}(),L "])
        content = content[: len(content) - (int(rng.integers(40)) if rng.random() < 0.2 else 0)]
        try:
            header = read_npy_header(io.BytesIO(content))
        except (ValueError, EOFError):
            continue
        read += 1
        file = io.BytesIO(content)
        assert np.lib.format.read_magic(file) == (1, 0)
        shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
        assert (shape, dtype) == header
        assert not fortran_order
    assert 10 < read < 1000
