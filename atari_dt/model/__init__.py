"""The Decision Transformer: tokens in, action logits out.

The names of this package are in `atari_dt.model.api`, and are imported when the first of them is used. Commands
therefore read their options before they import PyTorch.
"""

from typing import TYPE_CHECKING

from atari_dt.lazy_api import lazy_api

if TYPE_CHECKING:
    from atari_dt.model.api import *  # noqa: F403
else:
    __getattr__, __dir__ = lazy_api("atari_dt.model.api")
