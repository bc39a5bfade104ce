"""The names of the package `atari_dt.methods`."""

from atari_dt.methods.method import Method, Objective
from atari_dt.methods.registry import METHODS, find_method, load_model

__all__ = ["METHODS", "Method", "Objective", "find_method", "load_model"]
