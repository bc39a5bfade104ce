"""Visualize which pixels, bytes of the RAM or variables the actions of a trained model depend on while it plays."""

from atari_dt.interrupts import exit_on_interrupt

exit_on_interrupt(__name__)

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

import tyro

from atari_dt.command_line import run
from atari_dt.evaluation.play_config import PlayConfig
from atari_dt.interpretation.visualization_config import SaliencyConfig
from atari_dt.policies.protocol import PROTOCOLS, ProtocolName


@dataclass(frozen=True)
class Options:
    """Play episodes with a trained model and visualize which pixels, bytes of the RAM or variables its actions depend
    on: a picture, a video, numbers, and a page to step through the episodes in a browser, with the probability or Q of
    every action."""

    run_directory: tyro.conf.Positional[Path]
    """Run directory or checkpoint."""
    out: Path
    """Directory to create for saliency.png, saliency.mp4, saliency.json and viewer.html."""
    return_multiple: float | None = None
    """Target return of a Decision Transformer as a multiple of the dataset's largest return; 1 by default."""
    return_percentile: int | None = None
    """Target return as a percentile of the dataset's episode returns, from 0 to 100, instead of a multiple."""
    target_return: float | None = None
    """Target return in the dataset's reward units, instead of a multiple."""
    config: tyro.conf.OmitArgPrefixes[SaliencyConfig] = field(default_factory=SaliencyConfig)
    """What the picture, the video and the page show."""
    protocol: ProtocolName = "dopamine"
    """`dopamine`: as the dataset was collected; `original`: as in the original code. Options below override it."""
    play: tyro.conf.OmitArgPrefixes[PlayConfig] = field(default_factory=lambda: PlayConfig(episodes=1, max_steps=2000))
    """How the model plays."""


def main() -> None:
    """Parse the command line twice: once for the protocol, then with the protocol's settings as defaults."""
    options = tyro.cli(Options)
    play = dataclasses.replace(options.play, protocol=PROTOCOLS[options.protocol])
    options = tyro.cli(Options, default=dataclasses.replace(options, play=play))
    from atari_dt.interpretation.saliency_visualization import play_and_visualize_saliency

    table = play_and_visualize_saliency(
        options.run_directory,
        options.out,
        options.config,
        options.play,
        return_multiple=options.return_multiple,
        return_percentile=options.return_percentile,
        target_return=options.target_return,
    )
    print(table)
    print(f"viewer: {options.out / 'viewer.html'}")


if __name__ == "__main__":
    run(main, parse=False)
