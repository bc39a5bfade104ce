"""Let a trained model play under several target returns."""

import json
from pathlib import Path
from typing import Annotated

import tyro

from atari_dt.command_line import run
from atari_dt.devices import enough_memory, find_device
from atari_dt.evaluation import dataset_of, evaluate, target_returns
from atari_dt.experiments.report import check_writable, evaluation_json, evaluation_table
from atari_dt.model import DecisionTransformer, latest_checkpoint
from replay_data import TrajectoryStore
from replay_data.files import write_whole


def main(
    run_directory: tyro.conf.Positional[Path],
    return_multiples: tuple[float, ...] = (0.5, 1.0, 2.0),
    episodes: int = 16,
    num_envs: int = 16,
    max_steps: int = 27_000,
    seed: int = 0,
    device: str = "auto",
    data: Path | None = None,
    json_file: Annotated[Path | None, tyro.conf.arg(name="json")] = None,
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
        json_file: File for the scores.
    """
    if json_file:
        check_writable(json_file)
    where = find_device(device)
    model = DecisionTransformer.from_pretrained(latest_checkpoint(run_directory)).to(where)
    dataset = dataset_of(model)
    multiples: tuple[float | None, ...] = return_multiples
    if model.config.conditioning == "none":
        print("behaviour cloning has no target return, so it is evaluated once")
        multiples, targets = (None,), [0.0]
    else:
        targets = target_returns(dataset, return_multiples, TrajectoryStore.open(data) if data else None)
    with enough_memory(where, "--num-envs"):
        results = evaluate(model, targets, episodes=episodes, num_envs=num_envs, max_steps=max_steps, seed=seed)
    print(evaluation_table(multiples, results))
    if json_file:
        write_whole(json_file, json.dumps(evaluation_json(dataset.game, run_directory, multiples, results), indent=2))


if __name__ == "__main__":
    run(main)
