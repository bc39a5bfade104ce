"""What was played: trajectories on disk, and the contexts that are cut from them. NumPy only."""

from replay_data.contexts import context_bounds
from replay_data.errors import InputError
from replay_data.trajectory_store import StoreWriter, TrajectoryStore

__all__ = ["InputError", "StoreWriter", "TrajectoryStore", "context_bounds"]
