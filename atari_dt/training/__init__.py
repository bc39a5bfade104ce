"""Train a model of any learning method on a trajectory store.

The names of this package are in `atari_dt.training.api`, and are imported when the first of them is used. Commands
therefore read their options before they import PyTorch.
"""

from typing import TYPE_CHECKING

from atari_dt.lazy_api import lazy_api

if TYPE_CHECKING:
    from atari_dt.training.api import *  # noqa: F403
else:
    __getattr__, __dir__ = lazy_api("atari_dt.training.api")
