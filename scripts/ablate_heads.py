"""Ablate the attention heads of a trained model."""

from atari_dt.interrupts import exit_on_interrupt

exit_on_interrupt(__name__)

import dataclasses
import sys
from dataclasses import dataclass, field
from pathlib import Path

import tyro

from atari_dt.command_line import run
from atari_dt.evaluation.play_config import PlayConfig
from atari_dt.policies.protocol import PROTOCOLS, ProtocolName


@dataclass(frozen=True)
class Options:
    """Measure how the actions and scores of a trained model change without each attention head and each layer.

    An ablation replaces the output of a head, or of all heads of a layer, by its mean over many contexts, or makes the
    attention uniform. The same command resumes an interrupted study, and shows a finished one again."""

    run_directory: tyro.conf.Positional[Path]
    """Run directory or checkpoint of a Decision Transformer or of behavior cloning."""
    out: Path
    """Directory for heads.json, with all numbers, and heads.png, the figure."""
    max_contexts: int = 2000
    """Largest number of contexts of the intact model's episodes to compare action probabilities on."""
    scores: bool = True
    """Whether the ablated models play episodes. Without their scores, the command takes seconds instead of minutes."""
    return_multiple: float | None = None
    """Target return as a multiple of the dataset's largest return; 1 by default."""
    return_percentile: int | None = None
    """Target return as a percentile of the dataset's episode returns, from 0 to 100, instead of a multiple."""
    target_return: float | None = None
    """Target return in the dataset's reward units, instead of a multiple."""
    protocol: ProtocolName = "dopamine"
    """`dopamine`: as the dataset was collected; `original`: as in the original code. Options below override it."""
    play: tyro.conf.OmitArgPrefixes[PlayConfig] = field(default_factory=PlayConfig)
    """How the models play. Each ablation plays all episodes with the same emulator seeds."""


def main() -> None:
    """Parse the command line twice: once for the protocol, then with the protocol's settings as defaults."""
    options = tyro.cli(Options)
    play = dataclasses.replace(options.play, protocol=PROTOCOLS[options.protocol])
    options = tyro.cli(Options, default=dataclasses.replace(options, play=play))
    from atari_dt.interpretation.head_ablation_run import FIGURE_FILE, STUDY_FILE, ablate_heads

    study = ablate_heads(
        options.run_directory,
        options.out,
        options.play,
        max_contexts=options.max_contexts,
        scores=options.scores,
        return_multiple=options.return_multiple,
        return_percentile=options.return_percentile,
        target_return=options.target_return,
        command=sys.argv,
    )
    print(study.summary())
    print(f"written: {options.out / STUDY_FILE}, {options.out / FIGURE_FILE}")


if __name__ == "__main__":
    run(main, parse=False)
