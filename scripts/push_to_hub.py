"""Share a trained model: write it with its model card to a directory, or upload it to the Hugging Face Hub."""

from __future__ import annotations

from atari_dt.interrupts import exit_on_interrupt

exit_on_interrupt(__name__)

from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from atari_dt.command_line import run
from replay_data import InputError

if TYPE_CHECKING:
    from atari_dt.model import PretrainedModel, ReportedEvaluation


def main(
    run_directory: tyro.conf.Positional[Path],
    repo_id: str,
    scores: Path | None = None,
    private: bool = False,
    out: Path | None = None,
) -> None:
    """Upload the newest checkpoint of a run, with a model card that describes its data, settings and scores.

    Args:
        run_directory: Run directory written by scripts/train.py, or one of its checkpoints.
        repo_id: Repository on the Hub, such as user/breakout-dt. Log in first: `hf auth login`.
        scores: The scores.json written by scripts/evaluate.py --out; the model card reports its scores.
        private: Whether a new repository is private.
        out: Directory to write instead of uploading.
    """
    from atari_dt.methods import load_model
    from atari_dt.model import latest_checkpoint

    model = load_model(latest_checkpoint(run_directory))
    if scores is not None:
        model.evaluations = reported_evaluations(scores, model)
    if out is not None:
        model.save_pretrained(out, repo_id=repo_id)
        print(f"written to {out}; its card is {out / 'README.md'}")
    else:
        print(f"uploaded: {model.push_to_hub(repo_id, private=private or None)}")


def reported_evaluations(path: Path, model: PretrainedModel) -> tuple[ReportedEvaluation, ...]:
    """Return the evaluations that the model card reports.

    Raises:
        InputError: If the file is malformed, holds several runs, or its game or method is not the model's.
    """
    from atari_dt.evaluation.scores import read_scores
    from atari_dt.method_config import default_config

    scores = read_scores(path)
    if len(scores.runs) != 1:
        raise InputError(f"{path} holds scores of {len(scores.runs)} runs; evaluate this run alone")
    if model.dataset is not None and scores.game != model.dataset.game:
        raise InputError(
            f"{path} holds scores in {scores.game}, but the model plays {model.dataset.game}; evaluate this run"
        )
    if scores.method != model.config.method:
        label = default_config(scores.method).label
        raise InputError(
            f"{path} holds scores of {label}, but the model is one of {model.config.label}; evaluate this run"
        )
    return tuple(evaluation.reported() for evaluation in scores.runs[0].evaluations)


if __name__ == "__main__":
    run(main)
