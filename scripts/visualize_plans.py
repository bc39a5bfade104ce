"""Visualize the futures that a Trajectory Transformer imagines while it plans."""

from atari_dt.interrupts import exit_on_interrupt

exit_on_interrupt(__name__)

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

import tyro

from atari_dt.command_line import run
from atari_dt.evaluation.play_config import PlayConfig
from atari_dt.policies.protocol import PROTOCOLS, ProtocolName


@dataclass(frozen=True)
class Options:
    """Play an episode with a Trajectory Transformer that plans. Write a page that shows the plan of every step beside
    what came, and the errors of predictions over the horizon and of the discretization as figure and numbers."""

    run_directory: tyro.conf.Positional[Path]
    """Run directory or checkpoint."""
    out: Path
    """Directory to create for plans.html, plans.png and plans.json."""
    protocol: ProtocolName = "dopamine"
    """`dopamine`: as the dataset was collected; `original`: as in the original code. Options below override it."""
    play: tyro.conf.OmitArgPrefixes[PlayConfig] = field(default_factory=lambda: PlayConfig(episodes=1, max_steps=500))
    """How the model plays; one episode is played."""


def main() -> None:
    """Parse the command line twice: once for the protocol, then with the protocol's settings as defaults."""
    options = tyro.cli(Options)
    play = dataclasses.replace(options.play, protocol=PROTOCOLS[options.protocol])
    options = tyro.cli(Options, default=dataclasses.replace(options, play=play))
    from atari_dt.interpretation.plan_visualization import play_and_visualize_plans

    print(play_and_visualize_plans(options.run_directory, options.out, options.play))
    print(f"page: {options.out / 'plans.html'}")


if __name__ == "__main__":
    run(main, parse=False)
