"""The exceptions that reading a foreign or damaged PyTorch file can raise."""

from __future__ import annotations

import pickle

LOADING_ERRORS = (
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
)
"""What ``torch.load`` raises for a damaged file, and what using an object of an unexpected type raises."""
