"""Train and evaluate a Decision Transformer on Breakout in a few minutes on a laptop, starting from no data."""

from atari_dt.interrupts import exit_on_interrupt

exit_on_interrupt(__name__)

import json
import os
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from atari_dt.command_line import run
from atari_dt.recipes import RecipeName, apply_recipe
from replay_data import InputError
from replay_data.storage.atomic import atomic_write
from replay_data.storage.locks import exclusive_lock

RESULTS_FILE = "results.json"  # written last
RETURN_MULTIPLES = (0.0, 0.25, 0.5, 1.0, 2.0)
UPDATES = {"paper": 3000, "fast": 800}
RAM_UPDATES = {"paper": 800, "fast": 800}  # with RAM, an update takes a fourth of the time
NEXT_STEPS = """
What to try next

  Open the results:
    {results}/quickstart.png            achieved against target return, and the learning curve
    {results}/evaluation/1x-best.mp4    video of the best episode under the target return 1×
    {results}/attention/viewer.html     what the model attends to, step by step; opens in a browser

  Follow the training in TensorBoard:
    {python} -m tensorboard.main --logdir {out}

  Play under other target returns:
    {python} scripts/evaluate.py {out}/run --return-multiples 0.75 1.5 --seed 1

  See what the model attends to under a low target return:
    {python} scripts/visualize_attention.py {out}/run --return-multiple 0.25 --out {runs}/attention

  Ablate the context length:
    {python} scripts/ablate_context_length.py --data {out}/data --out {runs}/ablation \\
      --context-lengths 1 5 10 --seeds 0 1 \\
      {settings}

  Compare with behavior cloning:
    {python} scripts/train.py --method bc --data {out}/data --out {runs}/cloning --context-length {length} \\
      {settings}{schedule}
    {python} scripts/evaluate.py {runs}/cloning

  Record another game, and build a dataset from the recording:
    {python} scripts/collect_replay.py --agent scripted --game Pong --num-steps 60000 --out {runs}/log
    {python} scripts/build_dataset.py --source dopamine --path {runs}/log --game Pong --selection all \\
      --out {runs}/pong

  Record an agent that learns Breakout from scratch:
    {python} scripts/collect_replay.py --num-steps 1500000 --out {runs}/log"""


def main(
    out: Path | None = None,
    observation: Literal["frames", "ram"] = "frames",
    recipe: RecipeName = "fast",
    num_steps: int = 60_000,
    updates: int | None = None,
    episodes: int = 16,
    max_steps: int = 27_000,
    seed: int = 0,
) -> None:
    """Collect Breakout data, train a small Decision Transformer on it, and evaluate it under several target returns.

    Args:
        out: Output directory, by default runs/quickstart, and with RAM runs/quickstart-ram; the output of a previous
            quickstart in it, finished or not, is kept under another name.
        observation: What the model observes: `frames`, or `ram`, the 128 bytes of the emulator's RAM, which need no
            convolutions.
        recipe: How the network learns. `fast`: with every ingredient of atari_dt/recipes.py; `paper`: as in the paper.
        num_steps: Steps of data.
        updates: Training updates; by default 800, and 3,000 with frames and the recipe `paper`.
        episodes: Evaluation episodes per target return.
        max_steps: Maximum number of steps of an episode.
        seed: Seed of data, training and evaluation.
    """
    from atari_dt.collection.scripted import collect
    from atari_dt.config import ModelConfig, TrainingConfig
    from atari_dt.environment.config import EnvironmentConfig
    from atari_dt.evaluation.play_config import PlayConfig
    from atari_dt.evaluation.run_evaluation import evaluate_runs
    from atari_dt.evaluation.scores import EvaluationScores
    from atari_dt.experiments.run_config import schedule_for_max_updates
    from atari_dt.games.catalogue import find_game
    from atari_dt.interpretation.visualization import play_and_visualize
    from atari_dt.interpretation.visualization_config import VisualizationConfig
    from atari_dt.rendering.evaluation_report import write_evaluation
    from atari_dt.rendering.figures import quickstart_figure
    from atari_dt.rendering.tables import evaluation_table
    from atari_dt.training import read_metrics, train

    start = time.perf_counter()
    game = find_game("Breakout")
    config = EnvironmentConfig.with_max_steps(max_steps)
    if out is None:
        out = Path("runs/quickstart" if observation == "frames" else f"runs/quickstart-{observation}")
    if updates is None:
        updates = (UPDATES if observation == "frames" else RAM_UPDATES)[recipe]
    for name, value in (("updates", updates), ("episodes", episodes)):
        if value < 1:
            raise InputError(f"`{name}` must be at least 1, not {value}")
    model, training = apply_recipe(
        recipe,
        ModelConfig(context_length=10, num_layers=3, dropout=0.0, observation=observation),
        TrainingConfig(epochs=10**6, max_updates=updates, batch_size=32, seed=seed),
    )
    training = schedule_for_max_updates(training, model.context_length)
    if max_steps < model.context_length:
        raise InputError(f"`max_steps` must be at least {model.context_length}, the context length")
    if num_steps < training.batch_size:
        raise InputError(f"`num_steps` must be at least {training.batch_size}, not {num_steps}")

    with _output_directory(out):
        print("1/4 Data: scripted policies of every skill, from random to good, play Breakout.")
        store = collect(game, num_steps, out / "data", config=config, seed=seed)
        if store.metadata.max_return <= 0:
            raise InputError(
                f"no episode of the {len(store):,} steps in {out / 'data'} has a positive return, so there is no "
                "target return to try; raise `num_steps` or `max_steps`"
            )

        seen = "frames" if observation == "frames" else "the emulator's RAM"
        print(f"2/4 Training: a Decision Transformer learns to predict actions from returns, {seen} and past actions.")
        train_start = time.perf_counter()
        train(store, out / "run", model, training)
        train_seconds = time.perf_counter() - train_start

        print("3/4 Evaluation: the model plays under target returns from zero to twice the best return of the data.")
        play = PlayConfig(episodes=episodes, max_steps=max_steps, seed=seed)
        evaluation = evaluate_runs([out / "run"], play, return_multiples=RETURN_MULTIPLES, num_envs=32)
        write_evaluation(out / "evaluation", evaluation, video_targets=[RETURN_MULTIPLES.index(1.0)])

        print("4/4 Interpretation: a web page shows what the model attends to while it plays.")
        visualization = VisualizationConfig(video=False)
        play = PlayConfig(episodes=1, max_steps=min(max_steps, 2000), seed=seed)
        play_and_visualize(out / "run", out / "attention", visualization, play)

        atomic_write(out / "quickstart.png", quickstart_figure(evaluation, read_metrics(out / "run")))
        total_seconds = time.perf_counter() - start
        scores = EvaluationScores.from_evaluation(evaluation).to_json()
        results = scores | {"train_seconds": train_seconds, "total_seconds": total_seconds}
        atomic_write(out / RESULTS_FILE, json.dumps(results, indent=2) + "\n")
        minutes = f"{train_seconds / 60:.1f} minutes of training, {total_seconds / 60:.1f} minutes in all"
        print(f"\nResults on {game.name} ({minutes}):\n")
        print(evaluation_table(evaluation))
        observed = "" if observation == "frames" else f"--observation {observation} "
        settings = (
            f"{observed}--recipe {recipe} --num-layers {model.num_layers} --dropout {model.dropout:g} "
            f"--batch-size {training.batch_size} --max-updates {updates}"
        )
        paths = {"python": os.path.relpath(sys.executable), "out": out, "runs": out.parent}
        quoted = {name: shlex.quote(str(path)) for name, path in paths.items()}
        schedule = "" if training.final_tokens is None else f" --final-tokens {training.final_tokens}"
        words = {"results": out, "length": model.context_length, "settings": settings, "schedule": schedule}
        print(NEXT_STEPS.format(**quoted, **words))


@contextmanager
def _output_directory(out: Path) -> Iterator[None]:
    """Create the output directory and lock it; rename that of a previous quickstart.

    Raises:
        InputError: If ``out`` holds other files, or another quickstart is writing to it.
        KeyboardInterrupt: If the block raises it; the message says what was kept.
    """
    if out.is_dir():
        with exclusive_lock(out, "doing a quickstart in"):
            _move_previous_output(out)
    elif os.path.lexists(out):
        raise InputError(f"{out} is not a directory; choose another `out`")
    out.mkdir(parents=True, exist_ok=True)
    with exclusive_lock(out, "doing a quickstart in"):
        try:
            yield
        except KeyboardInterrupt:  # the message of an interrupted step is advice for the step's own command
            kept = f"its output so far is in {out}; the same command keeps it under another name and begins anew"
            raise KeyboardInterrupt(kept if (out / "data").exists() else "nothing was kept") from None
        finally:
            with suppress(OSError):  # it holds files
                out.rmdir()


def _move_previous_output(out: Path) -> None:
    """Rename the output directory of a previous quickstart, unless it is empty.

    A quickstart that was killed while it played has left nothing but hidden directories, which `collect` removes.

    Raises:
        InputError: If ``out`` holds other files.
    """
    entries = list(out.iterdir())
    remains = [entry for entry in entries if entry.name.startswith(".data.partial-")]
    if remains == entries:
        if remains:
            print(f"a quickstart was killed while it made the data in {out}; this one begins anew")
        return
    if not remains and not (out / "data" / "metadata.json").is_file():
        raise InputError(f"{out} exists and is not the output of a quickstart; choose another `out`")
    suffix = 1
    while (backup := out.with_name(f"{out.name}.{suffix}")).exists():
        suffix += 1
    previous = "the previous quickstart" if (out / RESULTS_FILE).exists() else "a quickstart that did not finish"
    out.rename(backup)
    print(f"the output of {previous} is now in {backup}; this one begins anew")


if __name__ == "__main__":
    run(main)
