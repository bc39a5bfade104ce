"""Decision Transformers on Atari pixels (Chen et al., NeurIPS 2021)."""

__version__ = "0.1.0"
