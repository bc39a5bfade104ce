"""Train a Decision Transformer, or behaviour cloning, on a trajectory store."""

import signal
from pathlib import Path

import tyro

from atari_dt.command_line import run
from atari_dt.config import ModelConfig, TrainingConfig
from atari_dt.training import TrainingStopped, train
from replay_data import TrajectoryStore


def main(
    data: Path,
    out: Path,
    model: tyro.conf.OmitArgPrefixes[ModelConfig] = ModelConfig(),  # noqa: B008 (frozen)
    training: tyro.conf.OmitArgPrefixes[TrainingConfig] = TrainingConfig(),  # noqa: B008 (frozen)
    resume: bool = False,
) -> None:
    """Train on a trajectory store; every field of the config dataclasses is an option.

    Args:
        data: The store.
        out: Directory of the run, to be created.
        model: The network.
        training: How it is trained.
        resume: Go on from the last checkpoint in OUT if there is one, as if the run had never stopped. SIGTERM leaves a
            checkpoint and exits with status 0.
    """
    try:
        train(TrajectoryStore.open(data), out, model, training, resume)
    except TrainingStopped as stop:
        if stop.number != signal.SIGTERM:
            raise
        print(f"stopped; {stop}")
        return
    print(f"trained; next: python scripts/evaluate.py {out}")


if __name__ == "__main__":
    run(main)
