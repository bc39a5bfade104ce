"""ROM files: those bundled with ALE, and those a user supplies."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import weakref
from pathlib import Path

from atari_dt.games.catalogue import Game, bundled_rom, find_game
from replay_data import InputError
from replay_data.storage.regular_files import read_regular_file

MAX_ROM_BYTES = 1 << 20  # the largest cartridges of the Atari 2600 have 64 KiB

PROBE_TIMEOUT = 10.0
"""Seconds within which ALE must play 600 frames of a ROM file."""


class Rom:
    """A ROM file that a user supplies, such as an older version that a dataset was recorded with.

    ALE identifies an unknown ROM by its file name. This class therefore makes a copy under the name that ALE expects.

    Args:
        path: The ROM file.
        game: The game that it contains.

    Attributes:
        path: The copy; it is deleted together with this object.
        sha256: Hexadecimal SHA-256 digest of the file.

    Raises:
        InputError: If the file cannot be read, contains another game, or ALE cannot play it.
    """

    def __init__(self, path: Path, game: Game):
        try:
            content = read_regular_file(path, MAX_ROM_BYTES)
        except OSError as error:
            raise InputError(f"{path} cannot be read ({error.strerror}); give a ROM file") from error
        import ale_py  # only a ROM needs the emulator; settings without one are read before it is imported

        known = ale_py.ALEInterface.isSupportedROM(path) if content else None
        if known not in (None, game.rom):
            raise InputError(f"{path} is a ROM of {find_game(known).name}, not of {game.name}; give one of {game.name}")
        self.sha256 = hashlib.sha256(content).hexdigest()
        directory = tempfile.mkdtemp()
        weakref.finalize(self, shutil.rmtree, directory, ignore_errors=True)
        self.path = Path(directory) / f"{game.rom}.bin"
        self.path.write_bytes(content)
        # In a separate process, because a file that is not a ROM can make the emulator loop forever.
        try:
            command = [sys.executable, "-c", _PROBE, str(self.path)]
            subprocess.run(command, check=True, capture_output=True, timeout=PROBE_TIMEOUT)
        except subprocess.SubprocessError as error:
            raise InputError(f"ALE cannot play {path}; give a ROM file of {game.name}") from error


_PROBE = """
import sys
import ale_py
ale = ale_py.ALEInterface()
ale.loadROM(sys.argv[1])
ale.reset_game()
for step in range(600):
    ale.act(ale.getMinimalActionSet()[step % len(ale.getMinimalActionSet())])
"""


def rom_sha256(game: Game, rom: Rom | None = None) -> str:
    """Return the hexadecimal SHA-256 digest of a ROM, by default of the game's bundled one."""
    return rom.sha256 if rom else hashlib.sha256(bundled_rom(game).read_bytes()).hexdigest()
