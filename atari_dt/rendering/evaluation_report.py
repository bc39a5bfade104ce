"""Write the results of an evaluation to a directory: scores, figures, videos and TensorBoard events."""

from __future__ import annotations

import io
import json
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
from atari_dt.model.pretrained import checkpoint_updates
from atari_dt.rendering.figures import draw_score_histograms, draw_target_return_curve, to_png
from atari_dt.rendering.video import Preview, replay, write_video
from replay_data.progress import ProgressBar
from replay_data.storage.atomic import atomic_directory
from replay_data.storage.paths import check_new_directory


def write_evaluation(out: Path, evaluation: Evaluation, video_targets: Sequence[int] | None = None) -> None:
    """Write the results of an evaluation to a new directory, which appears only when it is complete.

    ``scores.json`` has all scores (`EvaluationScores`). ``target_returns.png`` shows achieved against target return,
    ``scores.png`` histograms of the scores. ``*-best.mp4``, ``*-median.mp4`` and ``*-worst.mp4`` show episodes under
    each target return. A TensorBoard file has the figures, statistics and previews of the videos.

    Args:
        out: Directory to create.
        evaluation: Results to write.
        video_targets: Indices of the target returns to make videos of; by default all.

    Raises:
        InputError: If the directory exists.
        OSError: If it cannot be written.
    """
    check_new_directory(out)
    num_targets = evaluation.num_targets
    curve, histograms = Figure(figsize=(6, 4.5), layout="constrained"), Figure(layout="constrained")
    draw_target_return_curve(curve.subplots(), evaluation)
    histograms.set_size_inches(6, 1 + 1.5 * num_targets)
    draw_score_histograms(histograms, evaluation)
    update = checkpoint_updates(evaluation.checkpoints[0]) or 0
    with atomic_directory(out) as directory:
        scores = EvaluationScores.from_evaluation(evaluation)
        (directory / "scores.json").write_text(json.dumps(scores.to_json(), indent=2) + "\n")
        summaries = []
        for name, figure in (("target_returns", curve), ("scores", histograms)):
            content = to_png(figure)
            (directory / f"{name}.png").write_bytes(content)
            summaries.append(_image_summary(name, content))
        for i in range(num_targets):
            values, label = np.concatenate(evaluation.scores(i)), evaluation.label(i)
            summaries.append(tensorboard.histogram(f"evaluation/scores/{label}", values, "auto"))
            summaries.append(tensorboard.scalar(f"evaluation/mean_score/{label}", values.mean()))
            summaries.append(tensorboard.scalar(f"evaluation/mean_return/{label}", evaluation.returns(i).mean()))
        summaries += _write_videos(
            directory, evaluation, range(num_targets) if video_targets is None else video_targets
        )
        (directory / f"events.out.tfevents.{int(time.time())}").write_bytes(_encode_events(summaries, update))


def _write_videos(directory: Path, evaluation: Evaluation, video_targets: Sequence[int]) -> list[Any]:
    """Write the videos and return their previews as TensorBoard summaries."""
    videos = [
        (target_index, *episode)
        for target_index in video_targets
        for episode in _representative_episodes(evaluation, target_index)
    ]
    action_meanings = evaluation.datasets[0].action_meanings
    summaries = []
    for target_index, name, result, i in ProgressBar(videos, unit="video", desc="drawing videos", leave=False):
        episode, seed = result.episodes[i], int(result.emulator_seeds[i])
        label = f"{evaluation.label(target_index)}-{name}"
        pictures = replay(
            evaluation.game, evaluation.environment, seed, episode, action_meanings, evaluation.conditioned
        )
        preview = Preview()
        write_video(directory / f"{label}.mp4", preview.watch(pictures))
        summaries.append(_image_summary(label, preview.gif()))
    return summaries


def _representative_episodes(evaluation: Evaluation, target_index: int) -> list[tuple[str, EvaluationResult, int]]:
    """Return the best, the median and the worst episode of all seeds under a target return, each at most once.

    Returns:
        ``(name, result, index)``: ``"best"``, ``"median"`` or ``"worst"``, and the index of the episode in its result.
    """
    episodes = [
        (results[target_index], i) for results in evaluation.results for i in range(len(results[target_index].scores))
    ]
    episodes.sort(key=lambda episode: episode[0].scores[episode[1]])
    names = {(len(episodes) - 1) // 2: "median"}
    names[0] = "worst"
    names[len(episodes) - 1] = "best"
    return [(name, *episodes[rank]) for rank, name in names.items()]


def _image_summary(name: str, content: bytes) -> Any:
    """Return a TensorBoard summary of the content of a PNG or GIF file."""
    image = Summary.Image(colorspace=3, encoded_image_string=content)
    return Summary(value=[Summary.Value(tag=f"evaluation/{name}", image=image)])


def _encode_events(summaries: Sequence[Any], step: int) -> bytes:
    """Return the content of a TensorBoard file.

    TensorBoard's own writer works in a thread, whose errors cannot be caught.
    """
    file = io.BytesIO()
    records = RecordWriter(file)
    records.write(Event(wall_time=time.time(), file_version="brain.Event:2").SerializeToString())
    for summary in summaries:
        records.write(Event(wall_time=time.time(), step=step, summary=summary).SerializeToString())
    records.flush()
    return file.getvalue()
