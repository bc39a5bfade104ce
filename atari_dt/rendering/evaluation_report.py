"""Write everything an evaluation found: scores, figures, videos, TensorBoard events."""

from __future__ import annotations

import io
import json
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard import summary as tensorboard

from atari_dt.evaluation.results import Evaluation, EvaluationResult
from atari_dt.evaluation.scores import EvaluationScores
from atari_dt.rendering.figures import draw_score_histograms, draw_target_return_curve, to_png
from atari_dt.rendering.video import Preview, replay, write_video
from replay_data.progress import ProgressBar
from replay_data.storage.atomic import atomic_directory
from replay_data.storage.paths import check_new_directory


def write_evaluation(out: Path, evaluation: Evaluation, video_targets: Sequence[int] | None = None) -> None:
    """Write a directory of everything that an evaluation found, whole or not at all.

    ``scores.json`` has every score; ``target_returns.png`` shows achieved against target returns, ``scores.png`` histograms;
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
    check_new_directory(out)
    curve, scores = Figure(figsize=(6, 4.5), layout="constrained"), Figure(layout="constrained")
    draw_target_return_curve(curve.subplots(), evaluation)
    scores.set_size_inches(6, 1 + 1.5 * len(evaluation.return_multiples))
    draw_score_histograms(scores, evaluation)
    number = re.search(r"update-(\d+)$", evaluation.checkpoints[0].name)
    update = int(number[1]) if number else 0
    with atomic_directory(out) as directory:
        scores_json = EvaluationScores.from_evaluation(evaluation).to_json()
        (directory / "scores.json").write_text(json.dumps(scores_json, indent=2) + "\n")
        summaries = []
        for name, figure in (("target_returns", curve), ("scores", scores)):
            content = to_png(figure)
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
    for target, name, result, i in ProgressBar(chosen, unit="video", desc="drawing videos", leave=False):
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
