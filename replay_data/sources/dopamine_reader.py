"""Read a Dopamine replay log: find its buffers and how they are connected.

`LogBuffer` reads the rows of a buffer, and `EpisodeSplitter` cuts them into episodes.
"""

from __future__ import annotations

from pathlib import Path

from replay_data.errors import ReplayFormatError
from replay_data.recording import Recording
from replay_data.sources.directories import find_directory
from replay_data.sources.dopamine_buffer import LogBuffer
from replay_data.sources.dopamine_format import ELEMENTS, FILE_NAME, NUM_BUFFERS, STAGE_PREFIX, element_path


class DopamineLog:
    """One run of a game, recorded as a Dopamine replay log; a `replay_data.episode.EpisodeSource`.

    Args:
        path: Directory that holds ``{game}/{run}/replay_logs``.
        game: Name of the game's directory, such as ``"Breakout"``.
        run: Index of the run, which is the name of its directory.
        num_actions: Size of the game's action set; a larger action is an error.

    Attributes:
        directory: The ``replay_logs`` directory.
        shards: The buffers that are present, by index, ascending.
        num_shards: Number of buffers of the run: 50, as in the public runs, or more if there are more.
        recording: Who played, and how, where this project recorded the log; None otherwise.

    Raises:
        ReplayFormatError: If there is no such run, a buffer lacks a file, or its files contradict each other.
    """

    def __init__(self, path: Path, game: str, run: int, num_actions: int):
        if list((path / game).glob(f"run_{run}-*-of-*")) and not (path / game / str(run)).exists():
            raise ReplayFormatError(f"{path / game} holds episode shards; read them with `source` rl_unplugged")
        self.directory = find_directory(path, game, str(run), "replay_logs")
        self.shards = {index: LogBuffer(self.directory, index, num_actions) for index in self._find_buffers()}
        self.num_shards = max(NUM_BUFFERS, *(index + 1 for index in self.shards))
        sidecars = [buffer.sidecar for buffer in self.shards.values() if buffer.sidecar is not None]
        self.recording: Recording | None = sidecars[0].recording if sidecars else None
        if len(sidecars) < len(self.shards):  # raw rewards are known for all episodes or for none
            for buffer in self.shards.values():
                buffer.sidecar = None
        for index, buffer in self.shards.items():
            if (following := self.shards.get(index + 1)) and buffer.leads_to(following):
                buffer.following, following.preceding = following, buffer

    def _find_buffers(self) -> list[int]:
        """Return the indices of the buffers that are present, ascending."""
        elements: dict[int, set[str]] = {}
        for file in self.directory.iterdir():
            if match := FILE_NAME.fullmatch(file.name):
                elements.setdefault(int(match[2]), set()).add(match[1])
        if not elements:
            raise ReplayFormatError(
                f"{self.directory} holds no replay log; its files are named like $store$_observation_ckpt.0.gz"
            )
        for index, present in elements.items():
            for element in ELEMENTS:
                if element not in present:
                    raise self._missing_element(index, element)
        return sorted(elements)

    def _missing_element(self, index: int, element: str) -> ReplayFormatError:
        path = element_path(self.directory, element, index)
        if any(self.directory.glob(f"{STAGE_PREFIX}*/{path.name}")):
            advice = (
                "the recorder was killed before it moved this file into the log; continue the recording with `resume`"
            )
        else:
            advice = "copy the missing one, or remove the buffer's other files"
        return ReplayFormatError(
            f"{path} is missing; a buffer needs its observation, action, reward and terminal files: {advice}"
        )
