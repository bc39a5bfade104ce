"""Where the data of a game comes from: the ways to record or download it, and what they cost."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from atari_dt.collection.agents import record_agent
from atari_dt.collection.policies.loading import load_policies
from atari_dt.collection.policies.zoo import ZOO_SCORES, zoo_policies
from atari_dt.collection.recorder import BYTES_PER_STEP, RAM_BYTES_PER_STEP, read_recording
from atari_dt.collection.scripted import ScriptedPlayer
from atari_dt.environment.config import FRAME_SKIP, MAX_FRAMES, EnvironmentConfig
from atari_dt.environment.python_env import action_meanings
from atari_dt.games.catalogue import Game
from atari_dt.player_config import PQNConfig
from atari_dt.preparation.options import DataOptions
from atari_dt.rendering.replay_summary import suggest_selection
from replay_data import InputError
from replay_data.download import check_run, download_run, game_address
from replay_data.hub_download import download_jat
from replay_data.selection.methods import Selection
from replay_data.sources import SourceFormat
from replay_data.sources.dopamine_format import NUM_BUFFERS, PADDING
from replay_data.sources.jat_files import directory_name
from replay_data.sources.jat_parquet import import_parquet

RUN = 1
"""Index of the recording or of the downloaded run."""

STEPS_PER_S = {"q_learning": 600.0, "scripted": 3200.0, "hub": 1500.0}
"""Steps per second that each agent is recorded with on 2 CPU cores (docs/benchmarks.md): about, for hub."""

RL_UNPLUGGED_BYTES_PER_STEP = 3000
"""Bytes of a step, or fewer: OpenCV's PNGs of a frame have 500 in Pong, 700 in Breakout and 2,800 in Qbert."""

JAT_BYTES_PER_STEP = 2400
"""Bytes of a step, or fewer: the Hub lists 355 MB for 500,000 steps of Breakout, and 1,197 MB for those of Boxing."""


@dataclass(frozen=True)
class Cost:
    """What is left to record or download of a game's raw data.

    Attributes:
        num_steps: Its steps; 0 if nothing is left.
        num_bytes: Its size on disk, an upper bound.
        seconds: Time on 2 CPU cores; None if it depends on the network.
    """

    num_steps: int
    num_bytes: float
    seconds: float | None


class DataOrigin(ABC):
    """A way to get the data of any game: raw data, which is recorded or downloaded, and a selection of its episodes.

    Args:
        num_steps: Number of steps to record or download of each game.
        raw: Directory of the raw data.

    Attributes:
        source_format: Format of the raw data.
        activity: What `make` does, such as ``"recording"``.
        store_steps: Number of steps that a store will have, about.
        max_store_steps: Number of steps that it can have if too few of its episodes are whole; else ``store_steps``.
        store_steps_per_s: Steps per second that are selected from the raw data and written to a store on 2 CPU cores.
        remark: What else should be said before `make`, as the end of a sentence; empty if there is nothing.
    """

    source_format: SourceFormat
    activity = "downloading"
    store_steps_per_s = 20_000.0  # decoding PNGs; measured on the shards in tests/data

    def __init__(self, num_steps: int, raw: Path):
        self.num_steps, self.raw = num_steps, raw
        self.store_steps = self.max_store_steps = num_steps
        self.remark = ""

    def check(self, game: Game) -> None:
        """Check, without the network, that there can be such data of a game.

        Raises:
            InputError: If there cannot.
        """
        if self.num_steps < 1:
            raise InputError(f"`data_steps` must be at least 1, not {self.num_steps}")

    @abstractmethod
    def connect(self, game: Game) -> None:
        """Check that the network has what `make` needs.

        Raises:
            InputError: If it has not, or cannot be reached.
        """

    @abstractmethod
    def cost(self, game: Game) -> Cost:
        """Return what is left to record or download of a game."""

    @abstractmethod
    def make(self, game: Game) -> Selection:
        """Record or download the raw data of a game, or the rest of it.

        Returns:
            The episodes that the store shall have.

        Raises:
            InputError: If that fails.
            KeyboardInterrupt: On Ctrl-C; another call continues.
        """


class RecordedAgent(DataOrigin):
    """Record an agent.

    Args:
        agent: ``"q_learning"``, ``"scripted"`` or ``"hub"``, which stands for the agents of RL Baselines3 Zoo.
        num_steps: Rows of each recording.
        raw: Directory of recordings.
        device: Device of the agent's network.
    """

    source_format: SourceFormat = "dopamine"
    activity = "recording"
    store_steps_per_s = 50_000.0  # docs/benchmarks.md, "A store from a replay log"

    def __init__(self, agent: str, num_steps: int, raw: Path, device: str):
        super().__init__(num_steps, raw)
        self._agent, self._device = agent, device
        if agent == "q_learning":  # as `suggest_selection`
            self.store_steps = min(500_000, num_steps // 3)
            # Of a buffer, at most its first and its last episode are not whole.
            if (num_steps - self.store_steps) // NUM_BUFFERS >= 2 * (MAX_FRAMES // FRAME_SKIP + PADDING):
                self.max_store_steps = self.store_steps
        self.remark = (
            "; these times leave out the first episodes of a recording, which must end before its first step is counted"
        )
        if agent == "hub":
            self.remark += "; the agents, up to 4 a game and 35 MB each, are kept in the Hub's cache"

    def check(self, game: Game) -> None:
        """Check the length of the recording, the agent, and those of a recording that has begun."""
        smallest = NUM_BUFFERS * (PADDING + 2)
        if self.num_steps < smallest:
            raise InputError(f"`data_steps` must be at least {smallest} for a recording, not {self.num_steps}")
        if self._agent == "scripted":
            ScriptedPlayer(game, EnvironmentConfig(), seed=0)
        if self._agent == "hub" and not zoo_policies(game):
            raise InputError(
                f"RL Baselines3 Zoo has no agents of {game.name} on the Hugging Face Hub, only of "
                f"{', '.join(ZOO_SCORES)}; choose another `data_from`"
            )
        recorded = read_recording(self._directory(game))
        if recorded and (agent := recorded[0].recording.agent) != self._agent:
            raise InputError(
                f"{self._directory(game)} is a recording of {agent}, not of {self._agent}; choose another `raw_data`"
            )
        if recorded and (num_steps := recorded[0].recording.num_steps) != self.num_steps:
            raise InputError(
                f"{self._directory(game)} is a recording of {num_steps:,} steps, not of {self.num_steps:,}; set "
                f"`data_steps` to {num_steps}, or choose another `raw_data`"
            )

    def connect(self, game: Game) -> None:
        """Download and load the agents of the Hub."""
        if self._agent == "hub":
            load_policies(zoo_policies(game), game, len(action_meanings(game)), self._device)

    def cost(self, game: Game) -> Cost:
        """Return the cost of the buffers that are not complete."""
        num_missing = NUM_BUFFERS - len(read_recording(self._directory(game)))
        num_steps = self.num_steps * num_missing // NUM_BUFFERS
        bytes_per_step = BYTES_PER_STEP + (RAM_BYTES_PER_STEP if self._agent == "scripted" else 0)
        return Cost(num_steps, num_steps * bytes_per_step, num_steps / STEPS_PER_S[self._agent])

    def make(self, game: Game) -> Selection:
        """Record the agent, or continue its recording."""
        buffers = record_agent(
            game,
            self._agent,
            self.raw,
            num_steps=self.num_steps,
            learning=PQNConfig(device=self._device) if self._agent == "q_learning" else None,
            policies=zoo_policies(game) if self._agent == "hub" else (),
            device=self._device if self._agent == "hub" else None,
            run=RUN,
            resume=True,
        )
        selection = suggest_selection(buffers)
        if selection is None:
            raise InputError(
                f"no episode ends in the {self.num_steps:,} steps of {self._directory(game)}; delete it and raise "
                "`data_steps`"
            )
        return selection if self._agent == "q_learning" else Selection.of("all")

    def _directory(self, game: Game) -> Path:
        return self.raw / game.name / str(RUN)


class RLUnpluggedDownload(DataOrigin):
    """Download the first episodes of each file of RL Unplugged's run 1.

    Args:
        num_steps: Number of steps of each game, of all files together.
        raw: Directory of downloads.
        base_url: Address of the directory of the games.
    """

    source_format: SourceFormat = "rl_unplugged"

    def __init__(self, num_steps: int, raw: Path, base_url: str):
        super().__init__(num_steps, raw)
        self._base_url = base_url

    def check(self, game: Game) -> None:
        """Check the address, and that the public data has the game."""
        super().check(game)
        game_address(self._base_url, game.name)

    def connect(self, game: Game) -> None:
        """Find the files of the game."""
        check_run(game.name, RUN, base_url=self._base_url)

    def cost(self, game: Game) -> Cost:
        """Return the cost of the whole download; how much of it is done is known only after asking the source."""
        return Cost(self.num_steps, self.num_steps * RL_UNPLUGGED_BYTES_PER_STEP, None)

    def make(self, game: Game) -> Selection:
        """Download the episodes, or the rest of them."""
        download_run(game.name, RUN, self.num_steps, self.raw, base_url=self._base_url)
        return Selection.of("all")


class JatDownload(DataOrigin):
    """Download expert play of the JAT dataset."""

    source_format: SourceFormat = "jat"

    def check(self, game: Game) -> None:
        """Check that the dataset has the game, and that its files can be read here."""
        super().check(game)
        directory_name(game.name)
        import_parquet()

    def connect(self, game: Game) -> None:
        """Do nothing: all games are in one repository, and the first download asks for it."""

    def cost(self, game: Game) -> Cost:
        """Return the cost of the whole download."""
        return Cost(self.num_steps, self.num_steps * JAT_BYTES_PER_STEP, None)

    def make(self, game: Game) -> Selection:
        """Download the episodes, or the rest of them."""
        download_jat(game.name, self.num_steps, self.raw)
        return Selection.of("all")


def find_origin(options: DataOptions, num_steps: int, raw: Path, device: str) -> DataOrigin:
    """Return the origin of an option.

    Args:
        options: Options with an origin.
        num_steps: Number of steps to record or download of a game.
        raw: Directory of the raw data.
        device: Device of the network of an agent that is recorded.
    """
    if options.data_from == "rl_unplugged":
        return RLUnpluggedDownload(num_steps, raw, options.base_url)
    if options.data_from == "jat":
        return JatDownload(num_steps, raw)
    assert options.data_from is not None
    return RecordedAgent(options.data_from, num_steps, raw, device)
