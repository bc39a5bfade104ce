"""Read a Dopamine replay log: find its files.

`connect_buffers` finds out how they are connected, `LogBuffer` reads the rows of a buffer, and `EpisodeSplitter` cuts
them into episodes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from replay_data.episode import STICKY_ACTIONS
from replay_data.errors import ReplayFormatError
from replay_data.json_fields import Scalar
from replay_data.recording import Recording
from replay_data.sources.directories import find_directory
from replay_data.sources.dopamine_buffer import LogBuffer
from replay_data.sources.dopamine_connections import connect_buffers
from replay_data.sources.dopamine_format import (
    BUFFER_NAME,
    ELEMENTS,
    FILE_NAME,
    MAX_BUFFERS,
    NUM_BUFFERS,
    STAGE_PREFIX,
    find_element,
)

_MAX_LISTED = 8  # runs in an error message


class DopamineLog:
    """One run of a game, recorded as a Dopamine replay log; a `replay_data.episode.EpisodeSource`.

    Args:
        path: Directory that holds ``{game}/{run}/replay_logs``, or d4rl-atari's ``{game}/{run}/{b}/observation.gz`` …
        game: Name of the game's directory, such as ``"Breakout"``.
        run: Index of the run, which is the name of its directory.
        num_actions: Size of the game's action set; a larger action is an error.

    Attributes:
        directory: The ``replay_logs`` directory, or d4rl-atari's ``{game}/{run}``.
        shards: The buffers to read, by index, ascending. Files without rows of their own are not among them, and the
            unfinished rest of the run is a part of the last one (`replay_data.sources.dopamine_connections`).
        num_shards: Number of buffers of the run: 50, as in the public runs, or more if there are more.
        missing: The indices below ``num_shards`` of which there are no files.
        notes: What a user should know about how the files were read, one sentence each.
        recording: Who played, and how, where this project recorded the log; None otherwise.
        sticky_actions: That of the recording; 0.25, as in the DQN-replay dataset, where there is none.
        has_raw_rewards: Whether this project recorded the log.
        details: Empty.

    Raises:
        ReplayFormatError: If there is no such run, a buffer lacks a file, or its files contradict each other.
    """

    details: Mapping[str, Scalar] = {}

    def __init__(self, path: Path, game: str, run: int, num_actions: int):
        if list((path / game).glob(f"run_{run}-*-of-*")) and not (path / game / str(run)).exists():
            raise ReplayFormatError(f"{path / game} holds episode shards; read them with `source` rl_unplugged")
        self.directory = _find_log(path, game, run)
        buffers = {index: LogBuffer(self.directory, index, num_actions) for index in self._find_buffers()}
        without_ram = [index for index, buffer in buffers.items() if not buffer.ram]
        if without_ram:  # RAM is known for all episodes or for none
            for buffer in buffers.values():
                buffer.ram = False
        sidecars = [buffer.sidecar for buffer in buffers.values() if buffer.sidecar is not None]
        self.recording: Recording | None = sidecars[0].recording if sidecars else None
        self.sticky_actions: float | None = STICKY_ACTIONS if self.recording is None else self.recording.sticky_actions
        self.has_raw_rewards = self.recording is not None
        connections = connect_buffers(buffers)
        self.shards, notes = connections.shards, list(connections.notes)
        without_sidecar = [index for index, buffer in buffers.items() if buffer.sidecar is None]
        if without_sidecar:  # raw rewards are known for all episodes or for none
            for buffer in buffers.values():
                buffer.raw_rewards = False
            # An episode begins at row 0 for certain. It shows whether the first frames of the game are black.
            first = buffers[0].count_first_blank_rows() if 0 in self.shards else None
            if first is not None and buffers[0].new_rows.start == 0:
                for buffer in buffers.values():
                    buffer.first_runs = (first,)
        if sidecars and without_sidecar:
            notes.append(
                f"recording_ckpt.*.json is missing for buffers {', '.join(map(str, without_sidecar))}; raw rewards are "
                "left out, and the ends of truncated episodes are uncertain there"
            )
        if 0 < len(without_ram) < len(buffers):
            notes.append(f"ram_*.gz is missing for buffers {', '.join(map(str, without_ram))}; RAM is left out")
        self.notes = tuple(notes)
        if not self.shards:
            raise ReplayFormatError(f"{self.directory} holds no rows to read: {self.notes[0]}; copy the whole log")
        self.num_shards: int = max(NUM_BUFFERS, *(index + 1 for index in self.shards))
        self.missing = set(range(self.num_shards)) - set(buffers)

    def _find_buffers(self) -> list[int]:
        """Return the indices of the buffers that are present, ascending."""
        elements: dict[int, set[str]] = {}
        for file in self.directory.iterdir():
            if match := FILE_NAME.fullmatch(file.name):
                elements.setdefault(int(match[2]), set()).add(match[1])
            elif present := _elements_of_d4rl_atari(file):
                elements[int(file.name)] = present
        if not elements:
            raise ReplayFormatError(
                f"{self.directory} holds no replay log; its files are named like $store$_observation_ckpt.0.gz"
            )
        if max(elements) >= MAX_BUFFERS:
            raise ReplayFormatError(
                f"{self.directory} holds a buffer {max(elements)}, but a log has at most {MAX_BUFFERS:,}; correct the "
                "name of its files"
            )
        for index, present in elements.items():
            for element in ELEMENTS:
                if element not in present:
                    raise self._missing_element(index, element)
        return sorted(elements)

    def _missing_element(self, index: int, element: str) -> ReplayFormatError:
        path = find_element(self.directory, element, index)
        if any(self.directory.glob(f"{STAGE_PREFIX}*/{path.name}")):
            advice = (
                "the recorder was killed before it moved this file into the log; continue the recording with `resume`"
            )
        else:
            advice = "copy the missing one, or remove the buffer's other files"
        return ReplayFormatError(
            f"{path} is missing; a buffer needs its observation, action, reward and terminal files: {advice}"
        )


def _find_log(path: Path, game: str, run: int) -> Path:
    """Return the directory of a run's log in either layout."""
    directory = path / game / str(run)
    if _has_layout_of_d4rl_atari(directory) and not (directory / "replay_logs").exists():
        return directory
    if (path / game).is_dir() and not directory.exists():
        others = [each for each in (path / game).iterdir() if each.name.isdecimal() and each.name.isascii()]
        runs = sorted(
            int(each.name) for each in others if (each / "replay_logs").is_dir() or _has_layout_of_d4rl_atari(each)
        )
        if runs:
            listed = ", ".join(map(str, runs[:_MAX_LISTED])) + (" …" if len(runs) > _MAX_LISTED else "")
            choice = f"one of {listed}" if len(runs) > 1 else listed
            raise ReplayFormatError(f"there is no run {run} in {path / game}; set `run` to {choice}")
    return find_directory(path, game, str(run), "replay_logs", source="dopamine")


def _has_layout_of_d4rl_atari(run: Path) -> bool:
    """Return whether the directory of a run holds a buffer in d4rl-atari's layout."""
    return run.is_dir() and any(map(_elements_of_d4rl_atari, run.iterdir()))


def _elements_of_d4rl_atari(buffer: Path) -> set[str]:
    """Return the elements that a directory holds in d4rl-atari's layout, none if it is not a buffer."""
    if not BUFFER_NAME.fullmatch(buffer.name):
        return set()
    return {element for element in ELEMENTS if (buffer / f"{element}.gz").exists()}
