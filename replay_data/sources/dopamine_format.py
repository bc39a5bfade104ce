"""Dopamine's replay logs, the format of the DQN-replay dataset (Agarwal et al. 2020).

A run is a directory ``{Game}/{run}/replay_logs`` of buffers. Buffer b of R rows (in the public data R = 1,000,000 and
b = 0 … 49) is these files, each a gzipped ``.npy``:

====================================  =======  ===============
``$store$_observation_ckpt.{b}.gz``   uint8    ``[R, 84, 84]``
``$store$_action_ckpt.{b}.gz``        int32    ``[R]``
``$store$_reward_ckpt.{b}.gz``        float32  ``[R]``
``$store$_terminal_ckpt.{b}.gz``      uint8    ``[R]``
``add_count_ckpt.{b}.gz``             int      ``[]``
``invalid_range_ckpt.{b}.gz``         int      ``[5]``
====================================  =======  ===============

d4rl-atari keeps the same arrays, without counters, as ``{Game}/{run}/{b}/observation.gz`` and so on; it calls b the
epoch (d4rl_atari/offline_env.py). Both layouts are read, and only Dopamine's is written.

**Rows.** A row is one step: a frame, the action chosen on it, the clipped reward that followed, and the terminal flag.
Three rows of zeros, the *padding*, open each episode, so that no stack of four frames mixes two episodes. A row whose
terminal is 1 ends an episode. An episode that a time limit truncated has no such row: only the sidecar, or else the
padding of the next episode, shows where it ended. `dopamine_episode_splitter` cuts episodes out of rows.

**The link row.** The buffer is circular, and Dopamine saves it when the cursor stands on the last slot. Rows 0 … R-2
are then in the order they were played (they are *fresh*), and row R-1, the *link row*, was played directly before row
0. In the file of buffer b it is the row between row R-2 of file b-1 and row 0 of file b. In the first file it holds no
step. `dopamine_connections` also handles buffers that were saved at other times.

**Counters.** ``add_count`` is the number of rows ever added to the log, so ``add_count % R`` is the cursor.
``invalid_range`` lists the rows around the cursor that Dopamine must not sample. Newer versions of Dopamine add
``episode_end_indices_ckpt``, a pickle, which is never opened here.

**The RAM.** A log that this project recorded may also have ``ram_{b}.gz``, a gzipped ``.npy`` file, uint8 ``[R, 128]``:
the emulator's RAM when the action of each row was chosen, zeros in padding. A row takes 128 bytes, compressed 12 in
Breakout (docs/data.md). Other readers pass over the file: they open files by name, or list the directory and take the
part of a name before the last dot for b, as batch_rl's ``fixed_replay_buffer.py`` does. Here that part is ``ram_{b}``.
If only some buffers of a log have the file, it is not read.

**The sidecar.** A log that this project recorded also has ``recording_ckpt.{b}.json``, which other readers ignore:

- ``format_version``: 2; a file without it is version 1.
- ``recording``: who played, and how (`replay_data.recording`).
- ``rows``: R.
- ``raw_rewards``: the ``rows`` whose reward was clipped, and its ``values`` before clipping.
- ``episodes``: the episodes that end in this buffer, all of them, in the order they were played: the ``row`` of the
  last step (R-1, the link row, comes first), ``steps``, ``return``, ``score``, and what the player adds, such as
  ``played``, the steps of all environments by then.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import numpy.typing as npt

from replay_data.episode import FRAME_SHAPE, LEAD_IN
from replay_data.observation import RAM_SIZE

NUM_BUFFERS = 50  # of a run of the DQN-replay dataset

MAX_BUFFERS = 100_000  # of a log; an index above it would make every list of the missing buffers fill the memory

PADDING = LEAD_IN  # rows; Dopamine adds stack_size - 1 of them

MAX_EPISODE_ROWS = 108_000  # frames after which ALE ends an episode; a row is at least one frame

MAX_BUFFER_ROWS = 10_000_000  # ten times Dopamine's default; Dopamine keeps a buffer in memory, so these take 70 GB

CHUNK_ROWS = 1024  # rows read at once: 7 MB of frames

ELEMENTS: dict[str, tuple[npt.DTypeLike, tuple[int, ...]]] = {
    "observation": (np.uint8, FRAME_SHAPE),
    "action": (np.int32, ()),
    "reward": (np.float32, ()),
    "terminal": (np.uint8, ()),
}
"""dtype and shape of one row of each element."""

ROW_ELEMENTS = {**ELEMENTS, "ram": (np.uint8, (RAM_SIZE,))}
"""The same with the RAM, which only some logs have."""

FILE_NAME = re.compile(r"\$store\$_(observation|action|reward|terminal)_ckpt\.(0|[1-9]\d*)\.gz")

BUFFER_NAME = re.compile(r"0|[1-9]\d*")  # of a buffer's directory in d4rl-atari's layout

STAGE_PREFIX = ".partial-"  # of the hidden directory that buffers are written to before they are published


def element_path(directory: Path, element: str, index: int) -> Path:
    """Return the path of one element of buffer ``index``."""
    return directory / (f"ram_{index}.gz" if element == "ram" else f"$store$_{element}_ckpt.{index}.gz")


def find_element(directory: Path, element: str, index: int) -> Path:
    """Return the path of one element of buffer ``index`` of a log in Dopamine's or d4rl-atari's layout."""
    buffer = directory / str(index)
    return buffer / f"{element}.gz" if buffer.is_dir() else element_path(directory, element, index)
