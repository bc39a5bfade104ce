"""Download games of the JAT dataset from the Hugging Face Hub, as many files as are needed.

A file gets its name only when it is complete, and its SHA-256 is compared with the one that the Hub lists. An
interrupted download continues with the first file that is missing. ``download.json`` beside the files pins the
revision, so that all of them are of the same one.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from replay_data.errors import InputError
from replay_data.progress import ProgressBar
from replay_data.sources.jat import JatShard
from replay_data.sources.jat_files import REPOSITORY, JatDownload, ShardName, directory_name
from replay_data.sources.jat_parquet import import_parquet
from replay_data.storage.atomic import name_file_in_errors
from replay_data.storage.hub_errors import foreign_answer_error, translate_hub_errors
from replay_data.storage.locks import exclusive_lock
from replay_data.storage.regular_files import hash_file

_TIMEOUT = 30.0  # seconds for an answer about the repository


@dataclass(frozen=True)
class JatSummary:
    """The result of a download.

    Attributes:
        steps: Number of steps in the local files.
        episodes: Number of episodes in the local files.
        files: Number of local files that hold them.
        bytes_downloaded: Number of bytes of the files that this download received.
        revision: Commit of the repository.
    """

    steps: int
    episodes: int
    files: int
    bytes_downloaded: int
    revision: str


def download_jat(game: str, num_steps: int, out: Path, *, show_progress: bool = True) -> JatSummary:
    """Download the first files of a game until they have enough steps.

    The files are ``out/atari-{game}/train-…`` and then ``test-…``, with the game in lower case. The Hub is not asked if
    enough of them are present.

    Args:
        game: Name of the game, such as ``"Breakout"``.
        num_steps: Minimum number of steps. A game has a little less than 500,000; if that is not enough, all files are
            downloaded.
        out: Directory to write to.
        show_progress: Whether to show a progress bar for each file.

    Raises:
        InputError: If the dataset lacks the game, the Hub cannot be reached, or pyarrow is missing.
        ReplayFormatError: If a file is damaged.
    """
    if num_steps < 1:
        raise InputError(f"`num_steps` must be at least 1, not {num_steps}")
    directory = out / directory_name(game)
    import_parquet()  # it counts the steps of each file
    record = JatDownload.load(directory)
    if record is not None:
        files = _LocalFiles(directory, record)
        if files.find_missing(num_steps) is None:
            return files.summarize()
    record, sizes = _list_files(directory.name, None if record is None else record.revision)
    directory.mkdir(parents=True, exist_ok=True)
    with exclusive_lock(directory, "downloading to"):
        record.save(directory)
        files = _LocalFiles(directory, record)
        try:
            while (name := files.find_missing(num_steps)) is not None:
                files.download(name, sizes[name], show_progress)
        except KeyboardInterrupt:
            raise KeyboardInterrupt("the finished files are kept; run the same command again to resume") from None
    return files.summarize()


def _list_files(directory_name: str, revision: str | None) -> tuple[JatDownload, dict[str, int]]:
    """Return the revision and the hashes of the files of a game, and their sizes in bytes.

    Args:
        directory_name: Directory in the repository.
        revision: Commit of the repository; None for the newest.

    Raises:
        InputError: If the Hub cannot be reached, or lists no file of the dataset.
    """
    from huggingface_hub import HfApi

    sha256, sizes = {}, {}
    try:
        with translate_hub_errors(REPOSITORY, "read from"):
            api = HfApi()
            # Only this request has a limit of time. So it comes first, even where the revision is known.
            revision = str(api.dataset_info(REPOSITORY, revision=revision, timeout=_TIMEOUT).sha)
            for entry in api.list_repo_tree(REPOSITORY, directory_name, revision=revision, repo_type="dataset"):
                name = entry.path.removeprefix(f"{directory_name}/")
                if ShardName.parse(name) and (lfs := getattr(entry, "lfs", None)):  # a folder has no such attribute
                    sha256[name], sizes[name] = lfs.sha256, lfs.size
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise foreign_answer_error(REPOSITORY) from error
    if not sha256:
        raise InputError(
            f"{directory_name} of {REPOSITORY} on the Hugging Face Hub has no file of the form "
            "train-00000-of-00016.parquet; the dataset has changed"
        )
    return JatDownload(revision, sha256), sizes


class _LocalFiles:
    """The files of a game in a directory.

    Args:
        directory: The game's directory.
        record: Revision and hashes of the files.
    """

    def __init__(self, directory: Path, record: JatDownload):
        self._directory, self._record = directory, record
        self._counts: dict[str, tuple[int, int]] = {}  # steps and episodes of each file that is present and whole
        self._bytes_downloaded = 0

    def find_missing(self, num_steps: int) -> str | None:
        """Return the first file that is missing or damaged; None if the files before it have ``num_steps`` steps.

        Raises:
            ReplayFormatError: If a file is not one of the dataset.
        """
        for name in self._record.names:
            if sum(steps for steps, _ in self._counts.values()) >= num_steps:
                break
            path = self._directory / name
            if name not in self._counts:
                if not path.exists() or hash_file(path) != self._record.sha256[name]:
                    return name
                self._counts[name] = JatShard(path, num_actions=18).count()
        return None

    def download(self, name: str, size: int, show_progress: bool) -> None:
        """Download a file; replace it if it is there and damaged.

        Raises:
            InputError: If the Hub cannot be reached, or sends something else than it lists.
        """
        from huggingface_hub import hf_hub_download

        path, out = self._directory / name, self._directory.parent
        options: dict[str, Any] = {"local_dir": out, "force_download": path.exists()}
        if "tqdm_class" in inspect.signature(hf_hub_download).parameters:  # since version 1.1
            options["tqdm_class"] = _FileBar if show_progress else _NoBar
        try:
            with translate_hub_errors(REPOSITORY, "read from"), name_file_in_errors(path, out / ".cache"):
                hf_hub_download(
                    REPOSITORY,
                    f"{self._directory.name}/{name}",
                    repo_type="dataset",
                    revision=self._record.revision,
                    **options,
                )
        except OSError as error:
            if error.errno is not None:
                raise
            raise InputError(  # the library's message about a wrong size gives advice that does not apply
                f"the download of {path} ended before its {size:,} bytes were there; run the same command again"
            ) from error
        self._bytes_downloaded += size
        if hash_file(path) != self._record.sha256[name]:
            path.unlink()
            raise InputError(
                f"{path} does not have the SHA-256 that the Hugging Face Hub lists, and is deleted; run the same "
                "command again"
            )

    def summarize(self) -> JatSummary:
        """Return the numbers of the files that `find_missing` has found whole."""
        steps, episodes = (sum(numbers) for numbers in zip(*self._counts.values(), strict=True))
        return JatSummary(steps, episodes, len(self._counts), self._bytes_downloaded, self._record.revision)


class _FileBar(ProgressBar):
    """The bar of one file."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.pop("name", None)  # some versions of the Hub's library pass the name of a group of bars
        super().__init__(*args, **kwargs)


class _NoBar(_FileBar):
    """A bar that is not shown."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "disable": True})
