"""Let a trained model play, and show what it attends to."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

import tyro

from atari_dt.command_line import run
from atari_dt.evaluation import PROTOCOLS
from atari_dt.evaluation.play_config import PlayConfig
from atari_dt.evaluation.protocol import ProtocolName
from atari_dt.interpretation.visualization import VisualizationConfig, play_and_visualize


@dataclass(frozen=True)
class Options:
    """Play episodes and write what the model attended to: pictures, a video, numbers, and a page to scrub through it
    in a browser."""

    run_directory: tyro.conf.Positional[Path]
    """What scripts/train.py wrote, or one of its checkpoints."""
    out: Path
    """Directory for attention.png, attention_distance.png, attention.mp4, attention.json and viewer.html, to be
    created."""
    return_multiple: float | None = None
    """Target return, as a multiple of the dataset's largest return; 1 if none is given in either way."""
    target_return: float | None = None
    """Target return as a number, in the dataset's reward units."""
    shown: tyro.conf.OmitArgPrefixes[VisualizationConfig] = field(default_factory=VisualizationConfig)
    """What the pictures show."""
    protocol: ProtocolName = "dopamine"
    """`dopamine`: play as the data was played; `original`: play as the original code evaluates. Each protocol option below
    overrides one setting."""
    play: tyro.conf.OmitArgPrefixes[PlayConfig] = field(default_factory=lambda: PlayConfig(episodes=1, max_steps=2000))
    """How the model plays. The page takes 2 KB a step for the quickstart's model, 13 KB for the paper's largest."""


def main() -> None:
    """Parse the command line twice: once to know the protocol, then with what it consists of as defaults."""
    options = tyro.cli(Options)
    play = dataclasses.replace(options.play, protocol=PROTOCOLS[options.protocol])
    options = tyro.cli(Options, default=dataclasses.replace(options, play=play))
    table = play_and_visualize(
        options.run_directory,
        options.out,
        options.shown,
        options.play,
        return_multiple=options.return_multiple,
        target_return=options.target_return,
    )
    print(table)
    print(f"look: {options.out / 'viewer.html'}")


if __name__ == "__main__":
    run(main, parse=False)
