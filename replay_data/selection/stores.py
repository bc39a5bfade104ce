"""Select episodes of a trajectory store again, into a new store.

Each episode is the same bit for bit. The frames, which are nearly all of a store, are not copied: ``frames.npy`` of the
new store is a hard link to that of the old one, where the file system allows it. Both stores then hold the same file,
with the frames that were not selected too, and the disk frees it when neither is left.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from replay_data.episode import FRAME_SHAPE, LEAD_IN
from replay_data.errors import InputError
from replay_data.progress import ProgressBar
from replay_data.selection.episodes import choose_by_return
from replay_data.selection.methods import Selection
from replay_data.storage.paths import check_free_space
from replay_data.store_metadata import StoreSource
from replay_data.store_writer import StoreWriter
from replay_data.trajectory_store import TrajectoryStore

_MAX_ORIGINS = 8  # selections one after another; each nests the metadata one level deeper


def select_from_store(
    out: Path,
    path: Path,
    selection: Selection,
    *,
    game: str | None = None,
    copy_frames: bool = False,
    verify: bool = False,
    show_progress: bool = True,
) -> TrajectoryStore:
    """Write the selected episodes of a store to a new store.

    Args:
        out: Directory of the new store, to be created.
        path: Directory of the old one.
        selection: Selection method and options: even, top, return_range or all.
        game: Name of the game that the store must have; None for any.
        copy_frames: Whether to copy the frames of the selected episodes even where a link is possible. Only copies of
            equal episodes have equal digests.
        verify: Whether to compare the SHA-256 of the old store's frames first.
        show_progress: Whether to show a progress bar.

    Returns:
        The new store. In its metadata, ``source.origin`` is the ``source`` of the old store, and ``source.details``
        holds the digest of the old store, and whether the frames are ``"linked"`` or ``"copied"``. ``source.verified``
        is false only for frames that were copied without ``verify``: linked ones keep their SHA-256.

    Raises:
        InputError: If ``path`` is not a store of the game, ``out`` exists or lies in it, or the store does not hold
            what the selection needs.
    """
    store = TrajectoryStore.open(path)
    unchanged = _fingerprint(path)
    _check_request(store, out, selection, game)
    starts, ends = store.episode_starts, store.episode_ends
    chosen = np.flatnonzero(_choose_episodes(store, selection))
    writer = StoreWriter(
        out,
        game=store.game,
        action_meanings=store.metadata.action_meanings,
        reward_clipping=store.metadata.reward_clipping,
        sticky_actions=store.metadata.sticky_actions,
        source=StoreSource("store", selection=selection.to_json(), origin=store.metadata.source),
    )
    num_steps = int((ends - starts)[chosen].sum())
    bar = ProgressBar(total=num_steps, unit="step", unit_scale=True, desc="reading", disable=not show_progress)
    try:
        with writer, bar:
            if verify:
                store.verify()
            linked = not copy_frames and writer.link_frames(path / "frames.npy", store.metadata.arrays["frames"])
            details = {"digest": store.digest, "frames": "linked" if linked else "copied"}
            writer.source = dataclasses.replace(writer.source, verified=linked or verify, details=details)
            if not linked:
                check_free_space(out, (num_steps + LEAD_IN * len(chosen)) * FRAME_SHAPE[0] * FRAME_SHAPE[1])
            for episode in chosen.tolist():
                _append_episode(writer, store, episode, slice(int(starts[episode]), int(ends[episode])), linked)
                bar.update(int(ends[episode] - starts[episode]))
            if _fingerprint(path) != unchanged:
                raise InputError(f"{path / 'frames.npy'} changed while it was read; run the command again")
    except KeyboardInterrupt:
        raise KeyboardInterrupt("nothing was kept") from None
    return TrajectoryStore.open(out)


def _check_request(store: TrajectoryStore, out: Path, selection: Selection, game: str | None) -> None:
    """Check that the store can be selected from as requested."""
    path, source = store.path, store.metadata.source
    if selection.method in ("original", "corrected"):
        default = " (the default)" if selection.method == "corrected" else ""
        raise InputError(
            f"`selection` {selection.method}{default} visits buffers, and a store has none; use `selection` even, top, "
            "return_range or all"
        )
    if selection.num_buffers is not None:
        raise InputError("`num_buffers` counts the files of a recorded run, and a store has none; leave it out")
    if game not in (None, store.game):
        raise InputError(f"the store at {path} holds {store.game}, not {game}; correct `game` or leave it out")
    if source.selection.get("method") == "original":
        raise InputError(
            f"the store at {path} was built with `selection` original, where the timesteps of an episode depend on the "
            "one before it; build it with `selection` corrected, and select from that store"
        )
    if out.resolve().is_relative_to(path.resolve()) and out.resolve() != path.resolve():
        raise InputError(f"{out} lies in the store at {path}; choose a directory outside it")
    if (num_origins := len(source.origins)) > _MAX_ORIGINS:
        raise InputError(
            f"the store at {path} is the last of a chain of {num_origins} stores; select from one of the first "
            f"{_MAX_ORIGINS}"
        )


def _choose_episodes(store: TrajectoryStore, selection: Selection) -> npt.NDArray[np.bool_]:
    """Return which episodes the selection takes, bool ``[E]``."""
    if selection.method == "all":
        return np.ones(store.num_episodes, dtype=np.bool_)
    if selection.method == "even":
        lengths = store.episode_ends - store.episode_starts
        if selection.num_steps > len(store):
            raise InputError(
                f"the store at {store.path} holds {len(store):,} steps, less than {selection.num_steps:,}; lower "
                "`num_steps`, or take all episodes with `selection` all"
            )
        return spread_episodes(lengths, selection.num_steps)
    returns = np.add.reduceat(store.rewards, store.episode_starts, dtype=np.float64)
    return choose_by_return(returns, selection)


def spread_episodes(lengths: npt.NDArray[np.int64], num_steps: int) -> npt.NDArray[np.bool_]:
    """Choose episodes at nearly equal distances until they have ``num_steps`` steps.

    Episode i ranks by the fractional part of i √2. However many of the first ranks are taken, their distances are
    nearly equal, but not regular: every n-th episode might always be the same player's where players take turns. The
    length of an episode does not affect its rank.

    Args:
        lengths: int64 ``[E]``, number of steps of each episode.
        num_steps: Number of steps, at most the sum of the lengths.

    Returns:
        bool ``[E]``, true for the chosen episodes.
    """
    ranked = np.argsort(np.arange(len(lengths)) * np.sqrt(2) % 1, kind="stable")
    chosen = np.zeros(len(lengths), dtype=np.bool_)
    chosen[ranked[: 1 + np.searchsorted(np.cumsum(lengths[ranked]), num_steps)]] = True
    return chosen


def _append_episode(writer: StoreWriter, store: TrajectoryStore, episode: int, steps: slice, linked: bool) -> None:
    """Append one episode of a store, bit for bit."""
    first_frame, num_steps = int(store.frame_index[steps.start]), steps.stop - steps.start
    raw_rewards = None if store.raw_rewards is None else store.raw_rewards[steps]
    terminated = None if store.terminated is None else bool(store.terminated[episode])
    actions, rewards, returns_to_go = store.actions[steps], store.rewards[steps], store.returns_to_go[steps]
    ram = None if store.ram is None else store.ram[steps]
    if linked:
        writer.append_linked(
            first_frame, actions, rewards, raw_rewards, terminated=terminated, returns_to_go=returns_to_go, ram=ram
        )
    else:
        writer.append(
            store.frames[first_frame : first_frame + num_steps],
            actions,
            rewards,
            raw_rewards,
            terminated=terminated,
            lead_in=store.frames[first_frame - LEAD_IN : first_frame],
            returns_to_go=returns_to_go,
            ram=ram,
        )


def _fingerprint(path: Path) -> tuple[int, ...] | None:
    """Return what tells the frames of a store from a changed or replaced file; None if there is no file."""
    try:
        status = os.stat(path / "frames.npy")
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
