"""Download agents from the Hugging Face Hub."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_download, snapshot_download

from atari_dt.collection.policies.sb3_zip import MAX_ZIP_BYTES
from atari_dt.model.weights import list_names
from replay_data import InputError
from replay_data.storage.hub_errors import foreign_answer_error, translate_hub_errors

_METRICS = "train_eval_metrics.zip"  # RL Baselines3 Zoo puts it beside the agent

_NAME = re.compile(r"(?P<repo_id>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")

_TIMEOUT = 30.0  # seconds for an answer about a repository


def download_agent(name: str) -> tuple[str, Path]:
    """Download the agent of a repository, or find it in the Hub's cache.

    A cached agent is read without the network, and also if the Hub has deleted it.

    Args:
        name: Repository, such as ``"sb3/dqn-BreakoutNoFrameskip-v4"``, with or without ``"@"`` and a branch, a tag or a
            commit.

    Returns:
        The repository with the agent's commit, such as ``"sb3/dqn-BreakoutNoFrameskip-v4@"`` and 40 hexadecimal digits,
        and the path of the agent's zip file.

    Raises:
        InputError: If the name is none of a repository, the repository does not exist, is gated, or has not one agent,
            or the network is down.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise InputError(
            f"there is no agent {name!r}; give a file of Stable-Baselines3, or a repository on the Hugging Face Hub "
            "such as sb3/dqn-BreakoutNoFrameskip-v4; for a function of yours, set `agent` to its name, such as "
            "my_agent:load"
        )
    repo_id, revision = match["repo_id"], match["revision"]
    with translate_hub_errors(name, "read from this machine or"):
        snapshot = None
        try:
            sizes = _list_files(repo_id, revision)
        except Exception:
            snapshot = _find_snapshot(repo_id, revision)
            if snapshot is None:
                raise
            sizes = {path.name: path.stat().st_size for path in snapshot.iterdir() if path.is_file()}
        filename = _find_agent(name, sizes)
        if sizes[filename] > MAX_ZIP_BYTES:
            raise InputError(
                f"{filename} of {name} has {sizes[filename]:,} bytes, but an agent has at most {MAX_ZIP_BYTES:,}; use "
                "another agent"
            )
        path = snapshot / filename if snapshot else _download(repo_id, filename, revision)
    return f"{repo_id}@{path.parent.name}", path


def _list_files(repo_id: str, revision: str | None) -> dict[str, int]:
    """Return the sizes of a repository's files, in bytes, by name; 0 if the Hub does not say.

    Raises:
        InputError: If the answer is not the Hub's.
    """
    try:
        info = HfApi().model_info(repo_id, revision=revision, timeout=_TIMEOUT, files_metadata=True)
    except (json.JSONDecodeError, AttributeError, KeyError, TypeError) as error:
        raise foreign_answer_error(repo_id) from error
    return {file.rfilename: file.size or 0 for file in info.siblings or ()}


def _find_snapshot(repo_id: str, revision: str | None) -> Path | None:
    """Return the directory of a revision's cached files; None if there is none, or it has no zip file."""
    try:
        path = Path(snapshot_download(repo_id, revision=revision, allow_patterns="*.zip", local_files_only=True))
    except Exception:  # the error of the Hub itself says more
        return None
    return path if any(each.is_file() for each in path.glob("*.zip")) else None


def _find_agent(name: str, filenames: Iterable[str]) -> str:
    """Return the name of the agent's zip file: the one with the name of the repository, or the only one.

    Raises:
        InputError: If there is none, or there are several.
    """
    found = sorted(each for each in filenames if each.endswith(".zip") and "/" not in each and each != _METRICS)
    named = f"{name.partition('@')[0].partition('/')[2]}.zip"
    if named in found:
        return named
    if not found:
        raise InputError(f"{name} holds no zip file, so no agent of Stable-Baselines3; use another repository")
    if len(found) > 1:
        raise InputError(
            f"{name} holds several zip files, {list_names(found)}; download that of the agent, and give its path"
        )
    return found[0]


def _download(repo_id: str, filename: str, revision: str | None) -> Path:
    """Download a file into the Hub's cache, in the directory of its commit.

    Raises:
        InputError: If the connection breaks.
    """
    try:
        return Path(hf_hub_download(repo_id, filename, revision=revision))
    except OSError as error:
        if type(error) is not OSError or error.errno is not None:
            raise
        raise InputError(f"the download of {filename} from {repo_id} is incomplete; repeat the command") from error
