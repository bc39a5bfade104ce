"""ROM files: those that ship with ALE, and those a user supplies."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import weakref
from pathlib import Path

import ale_py
from ale_py import roms

from atari_dt.games.catalogue import Game, find_game
from replay_data import InputError


class Rom:
    """A ROM file that a person supplies, such as one of those that older datasets were made with.

    ALE tells ROMs that it does not know by their file's name, so it is given a copy that is named as it expects.

    Args:
        path: the file.
        game: that it is a ROM of.

    Attributes:
        path: the copy, which lives as long as this object.
        sha256: hexadecimal digest of the content.

    Raises:
        InputError: if it cannot be read, is of another game, or ALE cannot play it.
    """

    def __init__(self, path: Path, game: Game):
        try:
            content = path.read_bytes()
        except OSError as error:
            raise InputError(f"{path} cannot be read ({error.strerror}); give a ROM file") from error
        known = ale_py.ALEInterface.isSupportedROM(path) if content else None
        if known not in (None, game.rom):
            raise InputError(f"{path} is a ROM of {find_game(known).name}, not of {game.name}")
        self.sha256 = hashlib.sha256(content).hexdigest()
        directory = tempfile.mkdtemp()
        weakref.finalize(self, shutil.rmtree, directory, ignore_errors=True)
        self.path = Path(directory) / f"{game.rom}.bin"
        self.path.write_bytes(content)
        # In a process of its own, because what is no ROM can bring the emulator to loop for ever.
        try:
            subprocess.run([sys.executable, "-c", _PROBE, self.path], check=True, capture_output=True, timeout=10)
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


def bundled_rom(game: Game) -> Path:
    path = roms.get_rom_path(game.rom)
    assert path is not None, game
    return path
