"""Evaluate trained models under several target returns."""

from atari_dt.interrupts import exit_on_interrupt

exit_on_interrupt(__name__)

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

import tyro

from atari_dt.command_line import run
from atari_dt.evaluation.play_config import PlayConfig
from atari_dt.policies.protocol import PROTOCOLS, ProtocolName
from replay_data import TrajectoryStore
from replay_data.storage.paths import check_new_directory


@dataclass(frozen=True)
class Options:
    """Play episodes under each target return and with a uniform-random policy; print a table of scores, and write
    scores, figures and videos."""

    run_directories: tyro.conf.Positional[tuple[Path, ...]]
    """Run directories written by scripts/train.py, or checkpoints; several are training seeds of the same settings."""
    return_multiples: tuple[float, ...] | None = None
    """Target returns as multiples of the dataset's largest return; 0.5 1 2 if no target returns are given."""
    return_percentiles: tuple[int, ...] | None = None
    """Target returns as percentiles of the dataset's episode returns, from 0 to 100; 50 90 100 if no target returns are
    given and the largest return is not positive."""
    target_returns: tuple[float, ...] | None = None
    """Target returns as numbers, in the dataset's reward units."""
    protocol: ProtocolName = "dopamine"
    """Evaluation protocol. `dopamine` plays as the data was recorded, `original` as the original code evaluates. Each
    protocol option below overrides one of its settings."""
    play: tyro.conf.OmitArgPrefixes[PlayConfig] = field(default_factory=PlayConfig)
    """How the models play."""
    num_envs: int = 16
    """Number of environments stepped in parallel; the scores do not depend on it."""
    data: Path | None = None
    """Trajectory store whose returns replace those of the training data."""
    out: Path | None = None
    """New directory for scores.json, figures, videos and TensorBoard events."""
    videos: bool = True
    """Whether to write videos of the best, the median and the worst episode under each target return."""


def main() -> None:
    """Parse the command line twice: the first pass finds the protocol, whose settings are defaults of the second."""
    options = tyro.cli(Options)
    play = dataclasses.replace(options.play, protocol=PROTOCOLS[options.protocol])
    options = tyro.cli(Options, default=dataclasses.replace(options, play=play))
    if options.out:
        check_new_directory(options.out)
    from atari_dt.evaluation.run_evaluation import evaluate_runs
    from atari_dt.evaluation.target_returns import explain_percentiles
    from atari_dt.model.pretrained import checkpoint_updates
    from atari_dt.rendering.tables import evaluation_table

    evaluation = evaluate_runs(
        options.run_directories,
        options.play,
        return_multiples=options.return_multiples,
        return_percentiles=options.return_percentiles,
        target_returns=options.target_returns,
        data=TrajectoryStore.open(options.data) if options.data else None,
        num_envs=options.num_envs,
    )
    percentiles = [percentile for percentile in evaluation.return_percentiles if percentile is not None]
    if percentiles and not options.return_percentiles:
        print(f"note: {explain_percentiles(percentiles)}")
    print(evaluation_table(evaluation))
    for checkpoint in evaluation.checkpoints:
        updates = checkpoint_updates(checkpoint)
        after = "" if updates is None else f" after {updates:,} updates"
        print(f"played: {checkpoint}, {evaluation.config.label}{after}")
    if options.out:
        from atari_dt.rendering.evaluation_report import write_evaluation

        write_evaluation(options.out, evaluation, None if options.videos else ())
        print(f"written: {options.out}")


if __name__ == "__main__":
    run(main, parse=False)
