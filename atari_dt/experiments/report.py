"""Tables, figures, videos and JSON of what was played."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import platform
import re
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ale_py
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard import summary as tensorboard
from tqdm import tqdm

from atari_dt.evaluation import EvaluationResult
from atari_dt.evaluation.scores import ScoreSummary, gamer_normalised, summarise
from atari_dt.experiments.evaluation import Evaluation
from atari_dt.experiments.video import Preview, replay, write_video
from replay_data import InputError
from replay_data.files import whole_directory


def evaluation_json(evaluation: Evaluation) -> dict[str, Any]:
    """Every score of an evaluation, its statistics, what they are to be compared with, and how they came about.

    Scores are in the game's points, returns in the dataset's reward units. Standard deviations are the population's.
    """
    game, dataset = evaluation.game, evaluation.datasets[0]
    return {
        "game": game.name,
        "protocol": dataclasses.asdict(evaluation.protocol),
        "sampling": dataclasses.asdict(evaluation.sampling),
        "seed": evaluation.seed,
        "max_frames": evaluation.environment.max_frames,
        "rom_sha256": evaluation.rom_sha256,
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "ale_py": ale_py.__version__},
        "summary": [
            {
                "return_multiple": multiple,
                "target_return": evaluation.target_return(i),
                "score": _statistics(evaluation, summarise(evaluation.scores(i))),
                "mean_return": float(evaluation.returns(i).mean()),
                "std_return": float(evaluation.returns(i).std()),
            }
            for i, multiple in enumerate(evaluation.return_multiples)
        ],
        "random": {
            "score": _statistics(evaluation, summarise([evaluation.random.scores])),
            "scores": evaluation.random.scores.tolist(),
        },
        "datasets": [dataclasses.asdict(dataset) for dataset in evaluation.datasets],
        "paper": dataclasses.asdict(game.paper) if game.paper else None,
        "human": dict(zip(("random", "human"), game.random_and_human, strict=True)) if game.random_and_human else None,
        "runs": [
            {
                "run": str(checkpoint),
                "evaluations": [
                    {
                        "return_multiple": multiple,
                        "target_return": result.target_return if evaluation.conditioned else None,
                        "scores": result.scores.tolist(),
                        "mean_score": float(result.scores.mean()),
                        "std_score": float(result.scores.std()),
                        "returns": result.returns.tolist(),
                        "lengths": result.lengths.tolist(),
                        "emulator_seeds": result.emulator_seeds.tolist(),
                    }
                    for multiple, result in zip(evaluation.return_multiples, results, strict=True)
                ],
            }
            for checkpoint, results in zip(evaluation.checkpoints, evaluation.results, strict=True)
        ],
        "reward_units": "clipped to [-1, 1]" if dataset.reward_clipping else "points",
    }


def _statistics(evaluation: Evaluation, summary: ScoreSummary) -> dict[str, Any]:
    """A summary, in points and normalised with the paper's constants and with those of the 57 games."""
    values = {"points": dataclasses.asdict(summary)}
    for name, constants in _constants(evaluation).items():
        values[name] = dataclasses.asdict(summary.normalised(*constants))
    return values


def _constants(evaluation: Evaluation) -> dict[str, tuple[float, float]]:
    """Random and human score, in points, of the tables that know the game."""
    game, constants = evaluation.game, {}
    if game.paper is not None:
        constants["normalised_as_in_the_paper"] = game.paper.random, game.paper.gamer
    if game.random_and_human is not None:
        constants["human_normalised"] = game.random_and_human
    return constants


def evaluation_table(evaluation: Evaluation) -> str:
    """A line for each target return, and for what it is to be compared with.

    Scores are in points, mean ± standard deviation over all episodes; behind them the interquartile mean with its 95%
    interval, and the mean gamer-normalised with the paper's constants and with those of the 57 games; returns are in
    the dataset's reward units.
    """
    constants = _constants(evaluation)
    header = ("target return", "score", "median", "IQM", "95% interval", "return", "episodes")
    normalised = {"normalised_as_in_the_paper": "paper's %", "human_normalised": "human %"}
    rows = [[*header[:5], *(normalised[name] for name in constants), *header[5:]]]

    def add(name: str, scores: Sequence[Any], returns: str, episodes: int) -> None:
        summary = summarise(scores)
        interval = "" if summary.interval is None else f"{summary.interval[0]:.1f} to {summary.interval[1]:.1f}"
        percent = [f"{summary.normalised(*pair).mean:.1f}" for pair in constants.values()]
        score = f"{summary.mean:.1f} ± {summary.std:.1f}"
        middle = [f"{summary.median:.1f}", f"{summary.interquartile_mean:.1f}", interval]
        rows.append([name, score, *middle, *percent, returns, str(episodes)])

    def add_score(name: str, score: float | None, spread: str, returns: str, episodes: str) -> None:
        if score is not None:
            percent = [f"{gamer_normalised(score, *pair):.1f}" for pair in constants.values()]
            rows.append([name, f"{score:.1f}{spread}", "", "", "", *percent, returns, episodes])

    for i, multiple in enumerate(evaluation.return_multiples):
        target = evaluation.target_return(i)
        times = "" if multiple is None else f" ({multiple:g}×)"
        name = "none (cloning)" if target is None else f"{target:.1f}{times}"
        scores = evaluation.scores(i)
        add(name, scores, _spread(evaluation.returns(i)), sum(map(len, scores)))
    random, dataset, paper = evaluation.random, evaluation.datasets[0], evaluation.game.paper
    add("random player", [random.scores], _spread(random.returns), len(random.scores))
    if dataset.mean_return is not None:
        add_score("dataset, mean", dataset.mean_score, "", f"{dataset.mean_return:.1f}", str(dataset.episodes))
        add_score("dataset, best", dataset.max_score, "", f"{dataset.max_return:.1f}", "1")
    if paper is not None:
        mean, std = paper.decision_transformer if evaluation.conditioned else paper.behaviour_cloning
        add_score("paper, 3 seeds", mean, f" ± {std:.1f}", "", "")
    return aligned(rows)


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as text, each column aligned to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def draw_sweep(axes: Axes, evaluation: Evaluation) -> None:
    """Draw achieved against target return, as the paper does, with a band of ± one standard deviation."""
    dataset = evaluation.datasets[0]
    targets = np.array([evaluation.target_return(i) or 0.0 for i in range(len(evaluation.return_multiples))])
    order = np.argsort(targets, kind="stable")
    returns = [evaluation.returns(int(i)) for i in order]
    targets = targets[order]
    means = np.array([values.mean() for values in returns])
    deviations = np.array([values.std() for values in returns])
    tops = [(means + deviations).max()]
    if evaluation.conditioned:
        low, high = min(0.0, targets.min()), max(targets.max(), 1e-6)
        axes.plot([low, high], [low, high], color="0.6", linestyle="--", label="achieved = target")
        axes.fill_between(targets, means - deviations, means + deviations, color="tab:blue", alpha=0.15, linewidth=0)
    if dataset.max_return is not None:
        best = f"best of the data ({dataset.max_return:g})"
        axes.axhline(dataset.max_return, color="tab:green", linewidth=1, label=best)
        tops.append(dataset.max_return)
        if evaluation.conditioned and dataset.max_return <= high:
            axes.axvline(dataset.max_return, color="tab:green", linewidth=1, alpha=0.4)
    for value, name, color in (
        (dataset.mean_return, "mean of the data", "tab:green"),
        (evaluation.random.returns.mean(), "random player", "tab:red"),
    ):
        if value is not None:
            axes.axhline(value, color=color, linewidth=1, linestyle=":", label=f"{name} ({value:.1f})")
    for target, values in zip(targets, returns, strict=True):
        axes.plot(np.full(len(values), target), values, ".", color="tab:blue", alpha=0.25)
    axes.errorbar(
        targets, means, deviations, color="tab:blue", marker="o", capsize=3, label="mean ± standard deviation"
    )
    axes.set(
        xlabel="target return" if evaluation.conditioned else "behaviour cloning, no target return",
        ylabel="achieved return",
        title=f"{evaluation.game.name}: what is asked for and what is played",
    )
    if not evaluation.conditioned:
        axes.set_xticks([])
    axes.legend(fontsize=8)
    axes.set_ylim(top=1.15 * max(tops) if max(tops) > 0 else None)
    axes.spines[["top", "right"]].set_visible(False)


def draw_scores(figure: Figure, evaluation: Evaluation) -> None:
    """Draw a histogram of the scores under each target return."""
    scores = [np.concatenate(evaluation.scores(i)) for i in range(len(evaluation.return_multiples))]
    everything = np.concatenate([*scores, evaluation.random.scores])
    edges = np.histogram_bin_edges(everything, bins=min(30, max(5, len(set(everything)))))
    rows = figure.subplots(len(scores), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    for i, (axes, values) in enumerate(zip(rows, scores, strict=True)):
        axes.hist(values, edges, color="tab:blue", alpha=0.8)
        axes.axvline(np.median(values), color="black", linewidth=1.5, label=f"median {np.median(values):.1f}")
        mean = evaluation.random.scores.mean()
        axes.axvline(mean, color="tab:red", linestyle=":", label=f"random player {mean:.1f}")
        if (best := evaluation.datasets[0].max_score) is not None and best <= edges[-1]:
            axes.axvline(best, color="tab:green", linewidth=1, label=f"best of the data {best:g}")
        axes.set_ylabel("episodes")
        axes.set_title(evaluation.label(i), fontsize=9, loc="left")
        axes.legend(fontsize=7, loc="upper right")
        axes.spines[["top", "right"]].set_visible(False)
        axes.yaxis.get_major_locator().set_params(integer=True)
    rows[-1].set_xlabel(f"score in {evaluation.game.name}, in points")


def quickstart_figure(evaluation: Evaluation, metrics: Sequence[dict[str, float]]) -> bytes:
    """Draw achieved against target return, and the learning curve; return a PNG file.

    Args:
        evaluation: what was played.
        metrics: the lines of ``metrics.jsonl``.
    """
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    draw_sweep(left, evaluation)
    updates = [line["update"] for line in metrics]
    right.plot(updates, [line["loss"] for line in metrics], color="tab:orange")
    right.set(xlabel="update", title="learning curve")
    right.set_ylabel("cross-entropy per action (nats)", color="tab:orange")
    accuracy = right.twinx()
    accuracy.plot(updates, [line["action_accuracy"] for line in metrics], color="tab:purple")
    accuracy.set_ylabel("action accuracy", color="tab:purple")
    for axes in (right, accuracy):
        axes.spines["top"].set_visible(False)
    return png(figure)


def write_evaluation(out: Path, evaluation: Evaluation, video_targets: Sequence[int] | None = None) -> None:
    """Write a directory of everything that an evaluation found, whole or not at all.

    ``scores.json`` has every score; ``sweep.png`` shows achieved against target returns, ``scores.png`` histograms;
    ``*-best.mp4``, ``*-median.mp4`` and ``*-worst.mp4`` are the episodes of these scores under each target return; and
    a TensorBoard file holds all of it.

    Args:
        out: the directory, which must not exist.
        evaluation: what was found.
        video_targets: target returns whose videos are made; all by default.

    Raises:
        InputError: if it exists.
        OSError: if it cannot be written.
    """
    check_new(out)
    sweep, scores = Figure(figsize=(6, 4.5), layout="constrained"), Figure(layout="constrained")
    draw_sweep(sweep.subplots(), evaluation)
    scores.set_size_inches(6, 1 + 1.5 * len(evaluation.return_multiples))
    draw_scores(scores, evaluation)
    number = re.search(r"update-(\d+)$", evaluation.checkpoints[0].name)
    update = int(number[1]) if number else 0
    with whole_directory(out) as directory:
        (directory / "scores.json").write_text(json.dumps(evaluation_json(evaluation), indent=2) + "\n")
        summaries = []
        for name, figure in (("sweep", sweep), ("scores", scores)):
            content = png(figure)
            (directory / f"{name}.png").write_bytes(content)
            summaries.append(_image(name, content))
        for i in range(len(evaluation.return_multiples)):
            values, label = np.concatenate(evaluation.scores(i)), evaluation.label(i)
            summaries.append(tensorboard.histogram(f"evaluation/scores/{label}", values, "auto"))
            summaries.append(tensorboard.scalar(f"evaluation/mean_score/{label}", values.mean()))
            summaries.append(tensorboard.scalar(f"evaluation/mean_return/{label}", evaluation.returns(i).mean()))
        everything = range(len(evaluation.return_multiples)) if video_targets is None else video_targets
        summaries += _write_videos(directory, evaluation, everything)
        (directory / f"events.out.tfevents.{int(time.time())}").write_bytes(_events(summaries, update))


def _write_videos(directory: Path, evaluation: Evaluation, targets: Sequence[int]) -> list[Any]:
    """Write the videos; return what TensorBoard is to show of them."""
    chosen = [(target, *episode) for target in targets for episode in _remarkable(evaluation, target)]
    dataset = evaluation.datasets[0]
    summaries = []
    for target, name, result, i in tqdm(chosen, unit="video", desc="drawing videos", leave=False):
        episode, seed = result.episodes[i], int(result.emulator_seeds[i])
        label = f"{evaluation.label(target)}-{name}"
        frames = replay(
            evaluation.game, evaluation.environment, seed, episode, dataset.action_meanings, evaluation.conditioned
        )
        preview = Preview()
        write_video(directory / f"{label}.mp4", preview.watch(frames))
        summaries.append(_image(label, preview.gif()))
    return summaries


def _image(name: str, content: bytes) -> Any:
    """A picture for TensorBoard, of a PNG or GIF file."""
    image = Summary.Image(colorspace=3, encoded_image_string=content)
    return Summary(value=[Summary.Value(tag=f"evaluation/{name}", image=image)])


def _events(summaries: Sequence[Any], step: int) -> bytes:
    """A TensorBoard file. (Its own writer does this in a thread, whose errors nobody could catch.)"""
    file = io.BytesIO()
    records = RecordWriter(file)
    records.write(Event(wall_time=time.time(), file_version="brain.Event:2").SerializeToString())
    for summary in summaries:
        records.write(Event(wall_time=time.time(), step=step, summary=summary).SerializeToString())
    records.flush()
    return file.getvalue()


def _remarkable(evaluation: Evaluation, target: int) -> list[tuple[str, EvaluationResult, int]]:
    """The best, the median and the worst episode of all seeds under a target return, each only once."""
    episodes = [(results[target], i) for results in evaluation.results for i in range(len(results[target].scores))]
    episodes.sort(key=lambda episode: episode[0].scores[episode[1]])
    names = {(len(episodes) - 1) // 2: "median"}
    names[0] = "worst"
    names[len(episodes) - 1] = "best"
    return [(name, *episodes[place]) for place, name in names.items()]


def check_new(path: Path) -> None:
    """Raise InputError unless a directory can be made at ``path``; asked before the work is done, not after."""
    if os.path.lexists(path):
        raise InputError(f"{path} exists already; choose another directory, or delete it")
    parent = next(parent for parent in path.absolute().parents if parent.exists())
    check_writable(parent / path.name, path)


def check_writable(path: Path, named: Path | None = None) -> None:
    """Raise InputError unless a file can be written at ``path``; asked before the work is done, not after."""
    try:
        if path.is_dir():
            raise IsADirectoryError
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise InputError(
            f"{named or path} cannot be written; give a place in a directory that exists and is yours to write"
        ) from error


def png(figure: Figure) -> bytes:
    """Draw a figure as the content of a PNG file."""
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=120)
    return image.getvalue()


def _spread(values: Any) -> str:
    return f"{values.mean():.1f} ± {values.std():.1f}"
