"""Let a trained model play under several target returns."""

from pathlib import Path

import tyro

from atari_dt.command_line import run
from atari_dt.evaluation import dataset_of, evaluate, target_returns
from atari_dt.experiments.report import check_writable, evaluation_json, evaluation_table, write_json
from atari_dt.model import latest_checkpoint, load_model
from atari_dt.training.trainer import find_device
from replay_data import TrajectoryStore


def main(
    run_directory: tyro.conf.Positional[Path],
    return_multiples: tuple[float, ...] = (0.5, 1.0, 2.0),
    episodes: int = 16,
    num_envs: int = 16,
    max_steps: int = 27_000,
    seed: int = 0,
    device: str = "auto",
    data: Path | None = None,
    json: Path | None = None,
) -> None:
    """Play episodes under each target return, print a table, and write every score.

    Args:
        run_directory: What scripts/train.py wrote, or one of its checkpoints.
        return_multiples: Target returns, as multiples of the dataset's largest return.
        episodes: Episodes under each target return.
        num_envs: Games played at once.
        max_steps: Steps after which an episode is cut off.
        seed: Of the emulator and of the action sampling.
        device: Where the model runs.
        data: Take the largest return from this store instead of the one the model was trained on.
        json: File for the scores.
    """
    if json:
        check_writable(json)
    model = load_model(latest_checkpoint(run_directory)).to(find_device(device))
    targets = target_returns(dataset_of(model), return_multiples, TrajectoryStore.open(data) if data else None)
    results = evaluate(model, targets, episodes=episodes, num_envs=num_envs, max_steps=max_steps, seed=seed)
    print(evaluation_table(return_multiples, results))
    if json:
        write_json(json, evaluation_json(dataset_of(model).game, run_directory, return_multiples, results))


if __name__ == "__main__":
    run(main)
