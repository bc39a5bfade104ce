"""Export a trajectory store as a Minari dataset, so that other libraries such as d3rlpy can train on it."""

from atari_dt.interrupts import exit_on_interrupt

exit_on_interrupt(__name__)

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from atari_dt.command_line import run as run_command

if TYPE_CHECKING:
    from replay_data.trajectory_store import TrajectoryStore


def main(
    store: tyro.conf.Positional[Path],
    name: tyro.conf.Positional[str],
    stack: bool = True,
    author: str | None = None,
    author_email: str | None = None,
    license: str | None = None,
    algorithm_name: str | None = None,
    description: str | None = None,
    datasets_path: Path | None = None,
) -> None:
    """Write a Minari dataset that minari.load_dataset(NAME) reads.

    It has the store's episodes with the rewards before clipping where the store has them, and the environment's
    specification, so that its recover_environment() plays the same game under the same settings.

    Args:
        store: Directory of the store.
        name: Name of the dataset, such as atari/breakout/mine-v0. It must not exist yet.
        stack: Whether an observation is the last four frames [4, 84, 84], which any library can train on, or only the
            newest [1, 84, 84], which needs a quarter of the memory in libraries that stack frames themselves.
        author: Name of the author.
        author_email: Address of the author.
        license: Name of the license, such as CC-BY-4.0.
        algorithm_name: Name of the player; by default that of the recording, or the names of its trained agents.
        description: Text about the dataset, in Markdown; by default, its origin, selection, observations and rewards.
        datasets_path: Directory where Minari keeps its datasets; by default the environment variable
            MINARI_DATASETS_PATH or ~/.minari/datasets.
    """
    from replay_data.minari_export import DatasetDescription, export_to_minari, minari_root
    from replay_data.trajectory_store import TrajectoryStore

    opened = TrajectoryStore.open(store)
    root = minari_root() if datasets_path is None else datasets_path
    env_spec = describe_environment(opened, stack)
    path = export_to_minari(
        opened,
        name,
        root,
        env_spec=env_spec,
        stack=stack,
        description=DatasetDescription(author, author_email, license, algorithm_name, description),
    )
    size = sum(file.stat().st_size for file in path.rglob("*"))
    rewards = (
        "clipped rewards" if opened.raw_rewards is None and opened.metadata.reward_clipping else "unclipped rewards"
    )
    print(f"{path}: {len(opened):,} steps in {opened.num_episodes} episodes, with {rewards}")
    print(f"size:   {size / 1e6:,.1f} MB, {size / len(opened):,.0f} bytes a step")
    if env_spec is None:
        print("note:   the store does not tell its sticky actions; the dataset has no environment to recover")
    variable = f"MINARI_DATASETS_PATH={shlex.quote(str(root))} " if root != minari_root() else ""
    print(f"next:   {variable}python -c \"import minari; print(minari.load_dataset('{name}')[0])\"")


def describe_environment(store: "TrajectoryStore", stack: bool) -> str | None:
    """Return the specification of the environment in which a store was recorded; None if it is not known."""
    from atari_dt.environment.config import MAX_FRAMES
    from atari_dt.environment.gymnasium_spec import gymnasium_spec
    from atari_dt.games.catalogue import find_game

    metadata = store.metadata
    if metadata.sticky_actions is None:
        return None
    source = metadata.source.first_origin
    return gymnasium_spec(
        find_game(store.game),
        sticky_actions=metadata.sticky_actions,
        max_frames=MAX_FRAMES if source.recording is None else source.recording.max_frames,
        max_pooled=source.details.get("max_pooled") is not False,
        num_stacked_frames=4 if stack else 1,
    )


if __name__ == "__main__":
    run_command(main)
