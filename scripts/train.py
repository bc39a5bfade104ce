"""Train a Decision Transformer, or behaviour cloning, on a trajectory store."""

from pathlib import Path

import tyro

from atari_dt.command_line import run
from atari_dt.config import ModelConfig, TrainingConfig
from atari_dt.training import train
from replay_data import TrajectoryStore


def main(
    data: Path,
    out: Path,
    model: tyro.conf.OmitArgPrefixes[ModelConfig] = ModelConfig(),  # noqa: B008 (frozen)
    training: tyro.conf.OmitArgPrefixes[TrainingConfig] = TrainingConfig(),  # noqa: B008 (frozen)
) -> None:
    """Train on a trajectory store; every field of the config dataclasses is an option.

    Args:
        data: The store.
        out: Directory of the run, to be created.
        model: The network.
        training: How it is trained.
    """
    train(TrajectoryStore.open(data), out, model, training)
    print(f"trained; next: python scripts/evaluate.py {out}")


if __name__ == "__main__":
    run(main)
