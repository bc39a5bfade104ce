"""Atari environments with the preprocessing of the DQN-replay dataset or of the original code's evaluation.

The names of this package are in `atari_dt.environment.api`, and are imported when the first of them is used. Commands
therefore read their options before they import the emulator.
"""

from typing import TYPE_CHECKING

from atari_dt.lazy_api import lazy_api

if TYPE_CHECKING:
    from atari_dt.environment.api import *  # noqa: F403
else:
    __getattr__, __dir__ = lazy_api("atari_dt.environment.api")
