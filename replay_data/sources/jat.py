"""Read the Atari games of the JAT dataset (Gallouédec et al. 2024, arXiv:2402.09844): 500,000 steps of an expert each.

``jat-project/jat-dataset`` on the Hugging Face Hub (Apache-2.0) has a directory for each of 57 games, such as
``atari-breakout``, with Parquet files ``train-00000-of-00016.parquet`` …, ``test-00000-of-00002.parquet`` …. The names
of some games have a hash at the end, as in ``train-00000-of-00002-c04006bb1f51ef0b.parquet``. The split is random. Each
file is one shard here, those of ``train`` first. A row is one episode of T steps:

======================  ===========================================================================================
``image_observations``  list ``[T]`` of ``{bytes, path}``: a PNG of 84×84 pixels and four channels, the stack of four
                        frames; ``path`` is not used
``discrete_actions``    int64 ``[T]``, indices of the game's minimal action set
``rewards``             float32 ``[T]``, not clipped
======================  ===========================================================================================

**Certain**, from the code that made the dataset (huggingface/jat, data/envs/atari/create_atari_dataset.py) and both
Atari environments of Sample Factory, which the expert plays in (sf_examples/envpool/atari and sf_examples/atari):

- The columns and their types.
- The newest frame of a stack is its last channel, A of RGBA. This is checked at read time too: nine of ten stacks must
  continue the one before.
- Frame skip 4, the maximum of the last two frames, resized by area to 84×84; no sticky actions.
- An episode is a whole game, not a life. Up to 30 no-ops, and FIRE if the game has it, come before each game. After
  each lost life come no-ops and FIRE again. None of them are among the steps, and neither is the frame on which the
  life was lost. So the first three states of a life after the first, which a store stacks from single frames, differ
  from those that the expert saw.
- The expert's first stack repeats its oldest frame. A store has zeros in its place, as before every episode.
- The last game, which was not over after 500,000 steps, is missing.

**Inferred**, because that code says otherwise or leaves it open:

- Rewards are not clipped. The expert's mean scores, which the authors computed from this column (jat/eval/rl/
  scores_dict.json), are out of reach for clipped ones: 703 in Breakout, where clipped rewards end at 216.
- A time limit ends games after 108,000 emulator frames, about 27,000 steps (18,000 frames in Montezuma's Revenge), and
  such games are rows. In Enduro, the expert's mean score of 2,292 is that of games with this limit: on the Open RL
  Leaderboard most of its games end there, with 2,350. No column tells such games apart. Here, an episode is truncated
  if it has as many steps as the limit or at most 100 fewer, and terminated otherwise.

**Not known**: which of the two environments made the frames. Gymnasium's scales colors and then computes gray levels;
EnvPool's does the opposite, as the DQN-replay data and this project do.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from replay_data.episode import Episode
from replay_data.errors import ReplayFormatError
from replay_data.json_fields import Scalar
from replay_data.recording import Recording
from replay_data.sources.directories import find_directory
from replay_data.sources.jat_files import REPOSITORY, JatDownload, ShardName, directory_name
from replay_data.sources.jat_parquet import JatFile
from replay_data.sources.jat_row import JatRow
from replay_data.storage.regular_files import hash_file

_ADVICE = "delete it, and download it again"

_TIME_LIMITS = {"MontezumaRevenge": 4_500}  # steps; Sample Factory's default_timeout of 18,000 frames

_DEFAULT_TIME_LIMIT = 27_000  # steps

_MAX_RESET_STEPS = 100  # steps' worth of frames that resets spend: 30 no-ops, and 12 frames a life


class JatRun:
    """The episodes of a game in the JAT dataset; a `replay_data.episode.EpisodeSource`.

    Args:
        path: Directory that holds ``atari-breakout`` and so on.
        game: Name of the game, such as ``"Breakout"``.
        run: 1, because there is one run of each game.
        num_actions: Size of the game's minimal action set; a larger action is an error.

    Attributes:
        directory: The game's directory.
        shards: The files that are present, by index, ascending.
        num_shards: Number of files of the run, whether they are present or not. Without the record of a download, the
            files of a split of which none is present do not count.
        missing: The indices of the files that are not present.
        notes: How truncated episodes are recognized.
        recording: None, because this project did not record the dataset.
        sticky_actions: 0.
        has_raw_rewards: True.
        details: The dataset, its license and revision, and the resets.

    Raises:
        ReplayFormatError: If there is no such run, or its files contradict each other.
        InputError: If the dataset lacks the game.
    """

    recording: Recording | None = None
    sticky_actions: float | None = 0.0
    has_raw_rewards = True

    def __init__(self, path: Path, game: str, run: int, num_actions: int):
        if run != 1:
            raise ReplayFormatError(f"the JAT dataset has one run of each game; set `run` to 1, not {run}")
        self.directory = find_directory(path, directory_name(game), source="jat")
        files = {name: file for file in self.directory.iterdir() if (name := ShardName.parse(file.name))}
        if not files:
            raise ReplayFormatError(
                f"{self.directory} has no file of the JAT dataset; its files are named like "
                "train-00000-of-00016.parquet"
            )
        download = JatDownload.load(self.directory)
        names = {*files, *filter(None, map(ShardName.parse, download.sha256 if download else ()))}
        totals = {is_test: {name.total for name in names if name.is_test == is_test} for is_test in (False, True)}
        indices = {name: name.index + (max(totals[False], default=0) if name.is_test else 0) for name in files}
        if any(len(total) > 1 for total in totals.values()) or len(set(indices.values())) < len(files):
            listed = ", ".join(file.name for _, file in sorted(files.items()))
            raise ReplayFormatError(f"{self.directory} mixes files of several uploads ({listed}); keep one set")
        time_limit = _TIME_LIMITS.get(game, _DEFAULT_TIME_LIMIT)
        self.num_shards = sum(max(total, default=0) for total in totals.values())
        self.shards = {
            indices[name]: JatShard(
                files[name], num_actions, time_limit, download.sha256.get(files[name].name) if download else None
            )
            for name in sorted(files)
        }
        self.missing = set(range(self.num_shards)) - set(self.shards)
        self.notes: tuple[str, ...] = (
            "the JAT dataset does not say how an episode ended; one of "
            f"{time_limit - _MAX_RESET_STEPS:,} to {time_limit:,} steps is taken as truncated by the time limit",
        )
        self.details: Mapping[str, Scalar] = {
            "dataset": REPOSITORY,
            "license": "Apache-2.0",
            "resets": "no-ops and FIRE, after a game and a life, outside the steps",
            **({"revision": download.revision} if download else {}),
        }


class JatShard:
    """One file of a game; a `replay_data.episode.Shard`.

    Args:
        path: The file.
        num_actions: Size of the game's minimal action set; a larger action is an error.
        time_limit: Number of steps after which a game was truncated.
        sha256: SHA-256 of the file in hexadecimal digits, if it was recorded.

    Attributes:
        path: The file.
    """

    def __init__(self, path: Path, num_actions: int, time_limit: int = _DEFAULT_TIME_LIMIT, sha256: str | None = None):
        self.path = path
        self._num_actions, self._time_limit, self._sha256 = num_actions, time_limit, sha256
        self._file: JatFile | None = None

    def count(self) -> tuple[int, int]:
        """Return the number of steps and the number of episodes, which the end of the file lists."""
        file = self._open()
        self.close()
        return file.num_steps, file.num_rows

    def episodes(self, chosen: Collection[int] | None = None) -> Iterator[Episode]:
        """Yield the episodes of the file.

        Args:
            chosen: Indices of the episodes to yield, counted from 0; None for all.
        """
        file = self._open()
        for row in file.rows():
            low, high = row.actions.min(), row.actions.max()
            if low < 0 or high >= self._num_actions:
                reason = f"its actions run from {low} to {high}, not from 0 to {self._num_actions - 1}"
                raise file.damaged(reason, row.index)
            if chosen is None or row.index in chosen:
                yield self._decode(file, row)

    def returns(self) -> Iterator[float]:
        """Yield the return (the sum of the clipped rewards) of every episode, without reading an image."""
        for row in self._open().rows(only_rewards=True):
            yield float(row.rewards.clip(-1, 1).sum(dtype="float64"))

    def check(self, everything: bool = False) -> bool | None:
        """Compare the SHA-256 of the whole file with the one that its download recorded.

        Args:
            everything: Not used: the comparison takes seconds, even for the largest files.

        Returns:
            True, or None if no SHA-256 was recorded.

        Raises:
            ReplayFormatError: If it differs.
        """
        if self._sha256 is None:
            return None
        if hash_file(self.path) != self._sha256:
            raise ReplayFormatError(f"{self.path} is damaged (its SHA-256 is not the one of the download); {_ADVICE}")
        return True

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
        self._file = None

    def _decode(self, file: JatFile, row: JatRow) -> Episode:
        truncated = self._time_limit - _MAX_RESET_STEPS <= len(row.rewards) <= self._time_limit
        try:
            return row.decode(terminated=not truncated)
        except ValueError as error:
            raise file.damaged(str(error), row.index) from error

    def _open(self) -> JatFile:
        self.close()
        self._file = JatFile(self.path, _ADVICE)
        return self._file
