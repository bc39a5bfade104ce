"""The learning methods: each has a config, and here a `Method` that builds, trains and plays its network.

The names of this package are in `atari_dt.methods.api`, and are imported when the first of them is used.
"""

from typing import TYPE_CHECKING

from atari_dt.lazy_api import lazy_api

if TYPE_CHECKING:
    from atari_dt.methods.api import *  # noqa: F403
else:
    __getattr__, __dir__ = lazy_api("atari_dt.methods.api")
