"""Build and read trajectory stores, and select contexts from them; needs neither PyTorch nor the emulator."""

from replay_data.contexts import best_episodes, context_bounds, hold_out, window_starts
from replay_data.errors import InputError, ReplayFormatError
from replay_data.store_writer import StoreWriter
from replay_data.trajectory_store import TrajectoryStore

__all__ = [
    "InputError",
    "ReplayFormatError",
    "StoreWriter",
    "TrajectoryStore",
    "best_episodes",
    "context_bounds",
    "hold_out",
    "window_starts",
]
