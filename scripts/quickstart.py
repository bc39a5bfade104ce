"""From nothing to a Decision Transformer that plays Breakout, in a few minutes on a laptop."""

import json
import os
import shutil
import sys
import time
from pathlib import Path

from atari_dt.collection.scripted import collect
from atari_dt.command_line import run
from atari_dt.config import ModelConfig, TrainingConfig
from atari_dt.environment import EnvironmentConfig, VectorGames
from atari_dt.evaluation import RandomPolicy, evaluate, evaluate_policy, target_returns
from atari_dt.experiments.report import quickstart_figure, quickstart_results, quickstart_table, write_json
from atari_dt.games import find_game
from atari_dt.model import DatasetInfo
from atari_dt.training import train
from replay_data import InputError

MARK = ".made-by-quickstart"
RETURN_MULTIPLES = (0.0, 0.25, 0.5, 1.0, 2.0)
NEXT_STEPS = """
What to try next
  look     {out}/quickstart.png
  curves   {python} -m tensorboard.main --logdir {out}/run
  replay   {python} scripts/evaluate.py {out}/run --return-multiples 0.75 1.5 --seed 1
  ablate   {python} scripts/train.py --data {out}/data --out {out}/K1 --context-length 1 {size} \\
             --final-tokens {tokens_1}
           {python} scripts/evaluate.py {out}/K1
  clone    {python} scripts/train.py --data {out}/data --out {out}/BC --context-length 10 --conditioning none {size} \\
             --final-tokens {tokens_10}
  Pong     {python} scripts/collect_replay.py --game Pong --num-steps 60000 --out {out}/pong"""


def main(
    out: Path = Path("runs/quickstart"),
    num_steps: int = 60_000,
    updates: int = 3000,
    episodes: int = 16,
    max_steps: int = 27_000,
    seed: int = 0,
) -> None:
    """Collect Breakout, train a small Decision Transformer, and let it play under several target returns.

    Args:
        out: Directory for everything it makes; one that an earlier quickstart made is replaced.
        num_steps: Steps of data.
        updates: Training updates.
        episodes: Episodes under each target return.
        max_steps: Steps after which an episode is cut off.
        seed: Of everything.
    """
    start = time.perf_counter()
    if (out / MARK).is_file():
        print(f"replacing the earlier quickstart in {out}")
        shutil.rmtree(out)
    elif out.exists():
        raise InputError(f"{out} exists and was not made by a quickstart; choose another --out")
    out.mkdir(parents=True)
    (out / MARK).touch()
    game = find_game("Breakout")

    print("1/3 Players of every skill, from random to good, make the data.")
    config = EnvironmentConfig.with_max_steps(max_steps)
    store = collect(game, num_steps, out / "data", config=config, seed=seed)
    dataset = DatasetInfo.of(store)

    print("2/3 A Decision Transformer learns which action follows from return-to-go, frames and past actions.")
    model_config = ModelConfig(context_length=10, num_layers=3, dropout=0.0)
    tokens = updates * 32 * model_config.context_length
    training = TrainingConfig(epochs=10**6, max_updates=updates, batch_size=32, final_tokens=tokens, seed=seed)
    train_start = time.perf_counter()
    model = train(store, out / "run", model_config, training)
    train_seconds = time.perf_counter() - train_start

    print("3/3 It plays, asked for returns between nothing and twice the best it has seen.")
    targets = target_returns(dataset, RETURN_MULTIPLES)
    results = evaluate(model, targets, episodes=episodes, num_envs=32, max_steps=max_steps, seed=seed)
    games = VectorGames(game, episodes, config)
    policy = RandomPolicy(episodes, store.num_actions)
    (random,) = evaluate_policy(policy, games, [0.0], episodes, dataset.reward_clipping, seed, show_progress=False)

    metrics = [json.loads(line) for line in (out / "run" / "metrics.jsonl").read_text().splitlines()]
    quickstart_figure(out / "quickstart.png", dataset, results, random, metrics)
    total_seconds = time.perf_counter() - start
    write_json(
        out / "results.json",
        quickstart_results(dataset, RETURN_MULTIPLES, results, random, train_seconds, total_seconds),
    )
    print(f"\n{game.name} after {train_seconds / 60:.1f} minutes of training, {total_seconds / 60:.1f} in all:\n")
    print(quickstart_table(dataset, RETURN_MULTIPLES, results, random))
    size = f"--num-layers 3 --dropout 0 --batch-size 32 --max-updates {updates}"
    python = os.path.relpath(sys.executable)
    print(NEXT_STEPS.format(python=python, out=out, size=size, tokens_1=updates * 32, tokens_10=updates * 320))


if __name__ == "__main__":
    run(main)
