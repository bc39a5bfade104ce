"""Play a game and keep what was played as a trajectory store."""

from pathlib import Path
from typing import Literal

from atari_dt.collection.scripted import collect
from atari_dt.command_line import run
from atari_dt.environment import EnvironmentConfig
from atari_dt.games import find_game


def main(
    out: Path,
    game: str = "Breakout",
    agent: Literal["scripted"] = "scripted",
    num_steps: int = 60_000,
    sticky_actions: float = 0.25,
    max_steps: int = 27_000,
    seed: int = 0,
    num_workers: int | None = None,
) -> None:
    """Play episodes over an even spread of skills and write a trajectory store.

    Args:
        out: Directory of the store, to be created; 7 KB a step.
        game: Breakout or Pong.
        agent: Who plays: players that read the emulator's RAM.
        num_steps: Steps to play; the episode that reaches them is finished.
        sticky_actions: Probability that the game repeats the previous action.
        max_steps: Steps after which an episode is cut off.
        seed: The same seed gives the same store.
        num_workers: Processes that play; by default one per core.
    """
    config = EnvironmentConfig.with_max_steps(max_steps, sticky_actions=sticky_actions)
    store = collect(find_game(game), num_steps, out, config=config, seed=seed, num_workers=num_workers)
    about = store.metadata
    print(f"{out}: {len(store):,} steps in {store.num_episodes} episodes")
    print(f"return: {about['mean_return']:.1f} on average, {about['max_return']:g} at most")
    print(f"score:  {about['mean_score']:.1f} on average, {about['max_score']:g} at most")


if __name__ == "__main__":
    run(main)
