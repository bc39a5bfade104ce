"""Compare ways to act with trained models: sampling, target returns, and each setting of the original's evaluation."""

from atari_dt.interrupts import exit_on_interrupt

exit_on_interrupt(__name__)

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from atari_dt.command_line import run
from replay_data import InputError
from replay_data.storage.paths import check_writable


@dataclass(frozen=True)
class Options:
    """Play trained Decision Transformers in different ways with the same emulator seeds, and compare their scores.

    The default samples at temperature 1, under the data's largest return, in an environment as it was for the data.
    Each other way changes one of these settings, or all that differ in the original's evaluation. Settings without an
    effect on the models are not played; a table lists them. The same command resumes an interrupted comparison. With
    more temperatures or target returns, it plays only those that are new."""

    run_directories: tyro.conf.Positional[tuple[Path, ...]]
    """Run directories written by scripts/train.py, or checkpoints; several are training seeds of the same settings."""
    out: Path
    """JSON file of all scores, returns, lengths and settings; it is written after each way to act."""
    temperatures: tuple[float, ...] = (0.5, 0.0)
    """Temperatures of the sampling beside 1; 0 takes the most likely action (argmax)."""
    return_multiples: tuple[float, ...] | None = None
    """Target returns as multiples of the data's largest return, beside 1; by default 0 0.25 0.5 0.75 1.5 2 5, unless
    percentiles are given."""
    return_percentiles: tuple[int, ...] | None = None
    """Target returns as percentiles of the data's episode returns, from 0 to 100; by default 0 25 50 75 90 where the
    largest return is not positive."""
    protocol_settings: bool = True
    """Whether to play with each setting of the original's evaluation protocol alone, and with all of them."""
    episodes: int = 30
    """Number of episodes of each run for each way to act."""
    max_steps: int = 27_000
    """Number of steps after which an episode is truncated."""
    seed: int = 0
    """Seed of the emulator, the no-ops and the action sampling."""
    device: str = "auto"
    """Device of the models: `cpu`, `cuda` or `cuda:1`; `auto` chooses a GPU if there is one."""
    num_envs: int = 16
    """Number of environments stepped in parallel; the scores do not depend on it."""
    figure: Path | None = None
    """PNG file for a figure: achieved against target return, and the differences from the default."""


def main() -> None:
    """Parse the command line, play what is missing, and print the tables."""
    options = tyro.cli(Options)
    if options.figure is not None:
        if options.figure.suffix.lower() != ".png":
            raise InputError(f"`figure` must end in .png, not {options.figure.name!r}")
        check_writable(options.figure)
    from atari_dt.evaluation.play_config import PlayConfig
    from atari_dt.experiments.acting_comparison import compare_acting
    from atari_dt.experiments.acting_study import ActingStudy
    from atari_dt.experiments.acting_variants import plan_variants
    from atari_dt.model.pretrained import latest_checkpoint, read_checkpoint_config
    from atari_dt.rendering.tables import align_columns
    from replay_data.storage.atomic import atomic_write

    checkpoints = [latest_checkpoint(directory) for directory in options.run_directories]
    plan = plan_variants(
        [read_checkpoint_config(checkpoint) for checkpoint in checkpoints],
        options.temperatures,
        options.return_multiples,
        options.return_percentiles,
        options.protocol_settings,
    )
    play = PlayConfig(episodes=options.episodes, max_steps=options.max_steps, seed=options.seed, device=options.device)
    study = ActingStudy(compare_acting(checkpoints, plan, options.out, play, sys.argv, num_envs=options.num_envs))
    for part, table in study.tables().items():
        if part != "settings":  # the command line shows them
            print(f"\n{align_columns(table)}")
    print(f"\nwritten: {options.out}")
    if options.figure is not None:
        for image in study.figures().values():
            atomic_write(options.figure, image)
            print(f"written: {options.figure}")


if __name__ == "__main__":
    run(main, parse=False)
