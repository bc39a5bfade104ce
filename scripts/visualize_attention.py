"""Let a trained model play, and show what it attends to."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

import tyro

from atari_dt.command_line import run
from atari_dt.evaluation import PROTOCOLS, EvaluationProtocol, Sampling
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
    episodes: int = 1
    """Episodes to play; the still picture and the video are of the best, the page has all."""
    return_multiple: float | None = None
    """Target return, as a multiple of the dataset's largest return; 1 if none is given in either way."""
    target_return: float | None = None
    """Target return as a number, in the dataset's reward units."""
    shown: tyro.conf.OmitArgPrefixes[VisualizationConfig] = field(default_factory=VisualizationConfig)
    """What the pictures show."""
    protocol: ProtocolName = "dopamine"
    """`dopamine`: as the data was made; `original`: as the original code evaluates. Each switch changes one thing."""
    switches: tyro.conf.OmitArgPrefixes[EvaluationProtocol] = field(default_factory=EvaluationProtocol)
    """What the protocol consists of."""
    sampling: tyro.conf.OmitArgPrefixes[Sampling] = field(default_factory=Sampling)
    """How an action is chosen."""
    max_steps: int = 2000
    """Steps after which an episode is cut off; the page takes 2 KB a step for the quickstart's size, 13 KB for the
    paper's largest."""
    seed: int = 0
    """Of the emulator, the no-ops and the action sampling; the episodes are those of evaluate.py."""
    device: str = "auto"
    """Where the model runs: `cpu`, `cuda` or `cuda:1`; `auto` is a GPU if there is one."""
    rom: Path | None = None
    """A ROM file to play, instead of the one that comes with ALE."""


def main() -> None:
    """Parse the command line twice: once to know the protocol, then with what it consists of as defaults."""
    options = tyro.cli(Options)
    options = tyro.cli(Options, default=dataclasses.replace(options, switches=PROTOCOLS[options.protocol]))
    table = play_and_visualize(
        options.run_directory,
        options.out,
        options.shown,
        episodes=options.episodes,
        return_multiple=options.return_multiple,
        target_return=options.target_return,
        max_steps=options.max_steps,
        seed=options.seed,
        protocol=options.switches,
        sampling=options.sampling,
        rom=options.rom,
        device=options.device,
    )
    print(table)
    print(f"look: {options.out / 'viewer.html'}")


if __name__ == "__main__":
    run(main, parse=False)
