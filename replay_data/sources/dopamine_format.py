"""Dopamine's replay logs, the format of the DQN-replay dataset (Agarwal et al. 2020): stream them in, write them out.

A run is a directory ``{Game}/{run}/replay_logs``. Buffer b of R rows (1,000,000 in the public data, b = 0 … 49) is

====================================  =======  ===============
``$store$_observation_ckpt.{b}.gz``   uint8    ``[R, 84, 84]``
``$store$_action_ckpt.{b}.gz``        int32    ``[R]``
``$store$_reward_ckpt.{b}.gz``        float32  ``[R]``
``$store$_terminal_ckpt.{b}.gz``      uint8    ``[R]``
``add_count_ckpt.{b}.gz``             int      ``[]``
``invalid_range_ckpt.{b}.gz``         int      ``[5]``
====================================  =======  ===============

each a gzipped ``.npy``. A row is one step: a frame, the action chosen on it and the clipped reward that followed. Three
all-zero padding rows open each episode, so that no stack of four frames mixes two. A terminal row ends an episode; a
time limit shows only by the padding that follows.

The buffer is circular and is saved when its cursor stands on its last slot: rows 0 … R-2 are in the order they were
played, and row R-1, the *link row*, was played directly before row 0 (so it is the one between the last row of file
b-1 and the first of file b; nothing in the first file). ``add_count`` is the number of rows ever added.

`episode_end_indices_ckpt`, which newer versions add, is a pickle and is never opened.

Logs that this project records have ``recording_ckpt.{b}.json`` too, which other readers pass over: ``recording`` (who
played, and how), ``rows`` (R), ``raw_rewards`` (the ``rows`` whose reward was clipped, and its ``values`` before) and
``episodes``, those that end in this buffer (the ``row`` of the last step, ``steps``, ``return``, ``score``, and what
the player adds, such as the steps ``played`` by then in all games).
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import numpy.typing as npt

from replay_data.episode import FRAME_SHAPE, LEAD_IN

NUM_BUFFERS = 50  # of a run of the DQN-replay dataset

PAPER_CAPACITY = 100_000  # rows of a buffer that the original code looks at (its replay_capacity)

PADDING = LEAD_IN  # rows; Dopamine adds stack_size - 1 of them

MAX_EPISODE_ROWS = 108_000  # frames after which ALE ends an episode, at one row a frame

CHUNK_ROWS = 1024  # rows read at once, 7 MB of frames

ELEMENTS: dict[str, tuple[npt.DTypeLike, tuple[int, ...]]] = {
    "observation": (np.uint8, FRAME_SHAPE),
    "action": (np.int32, ()),
    "reward": (np.float32, ()),
    "terminal": (np.uint8, ()),
}

FILE_NAME = re.compile(r"\$store\$_(observation|action|reward|terminal)_ckpt\.(0|[1-9]\d*)\.gz")


def element_path(directory: Path, element: str, number: int) -> Path:
    return directory / f"$store$_{element}_ckpt.{number}.gz"


STAGE_PREFIX = ".partial-"
