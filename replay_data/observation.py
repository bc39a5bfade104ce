"""What a model observes at each step: frames, the emulator's RAM, or named variables in it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from replay_data.episode import FRAME_SHAPE, STACK
from replay_data.json_fields import check_range, read_field, read_list, read_object

ObservationKind = Literal["frames", "ram", "variables"]

RAM_SIZE = 128  # bytes of the Atari 2600's RAM


@dataclass(frozen=True)
class ObservationSpec:
    """Shape and meaning of an observation, and how many of them form a state.

    Attributes:
        kind: ``"frames"``, ``"ram"`` (all bytes of the emulator's RAM) or ``"variables"`` (some of them).
        shape: Shape of one observation.
        dtype: NumPy's name of the dtype.
        stack: Number of successive observations in a state, oldest first.
        names: Name of each entry of an observation of the kind ``"variables"``; empty for other kinds.
        addresses: Address in the RAM of each of these entries.
    """

    kind: ObservationKind
    shape: tuple[int, ...]
    dtype: str
    stack: int
    names: tuple[str, ...] = ()
    addresses: tuple[int, ...] = ()

    @property
    def state_shape(self) -> tuple[int, ...]:
        """Shape of a state: ``(4, 84, 84)`` of frames, ``(128,)`` of RAM."""
        return self.shape if self.stack == 1 else (self.stack, *self.shape)

    @property
    def is_vector(self) -> bool:
        """Whether a state is a vector of bytes of the RAM."""
        return self.kind != "frames"

    @property
    def entry_names(self) -> tuple[str, ...]:
        """Name of each entry of a vector: the name of a variable, or such as ``"RAM 72"``."""
        return self.names or tuple(f"RAM {address}" for address in range(self.shape[0] if self.is_vector else 0))

    def select(self, ram: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Return the observations in RAM, uint8 ``[..., 128]`` to ``[..., *shape]``; the kind must not be frames."""
        return ram if self.kind == "ram" else np.ascontiguousarray(ram[..., list(self.addresses)])

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object that `from_json` reads."""
        content: dict[str, Any] = {
            "kind": self.kind,
            "shape": list(self.shape),
            "dtype": self.dtype,
            "stack": self.stack,
        }
        if self.kind == "variables":
            content |= {"names": list(self.names), "addresses": list(self.addresses)}
        return content

    @classmethod
    def from_json(cls, content: Any) -> ObservationSpec:
        """Read a JSON object that `to_json` returned.

        Raises:
            ValueError, KeyError, TypeError: If the content is anything else, or describes no known observation.
        """
        kind = read_field(read_object(content), "kind", str)
        if kind == "variables":
            addresses = read_list(content, "addresses", int)
            for address in addresses:
                check_range("an address", address, 0, RAM_SIZE - 1)
            spec = variables_spec(read_list(content, "names", str), addresses)
        elif kind in ("frames", "ram"):
            spec = FRAMES if kind == "frames" else RAM
        else:
            raise ValueError(f"the observation is of the unknown kind {kind[:80]!r}")
        if spec.to_json() != content:
            raise ValueError(f"an observation of the kind {kind} has other sizes")
        return spec


FRAMES = ObservationSpec("frames", FRAME_SHAPE, "uint8", STACK)
"""Four stacked frames (Mnih et al. 2015)."""

RAM = ObservationSpec("ram", (RAM_SIZE,), "uint8", 1)
"""All bytes of the emulator's RAM."""


def variables_spec(names: tuple[str, ...], addresses: tuple[int, ...]) -> ObservationSpec:
    """Return the spec of named variables in the RAM.

    Args:
        names: Name of each variable, each once: letters, digits and underscores, as in Python.
        addresses: Address of each variable.

    Raises:
        ValueError: If there is no variable, a name occurs twice or is none, or there are more names than addresses or
            fewer.
    """
    for name in names:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,63}", name):
            raise ValueError(f"{name[:80]!r} is no name of a variable")
    if not names or len(names) != len(addresses) or len(set(names)) != len(names) or len(names) > RAM_SIZE:
        raise ValueError("the variables of an observation need one name and one address each")
    return ObservationSpec("variables", (len(names),), "uint8", 1, names, addresses)
