"""Share a trained model: write it with its card to a directory, or upload it to the Hugging Face Hub."""

import json
from pathlib import Path

import tyro

from atari_dt.command_line import run
from atari_dt.model import DecisionTransformer, ReportedEvaluation, latest_checkpoint
from replay_data import InputError


def main(
    run_directory: tyro.conf.Positional[Path],
    repo_id: str,
    scores: Path | None = None,
    private: bool = False,
    out: Path | None = None,
) -> None:
    """Upload a run's newest checkpoint with a card that describes its data, settings and scores.

    Args:
        run_directory: What scripts/train.py wrote, or one of its checkpoints.
        repo_id: Where to, such as user/breakout-dt. Log in first: `hf auth login`.
        scores: The scores.json that scripts/evaluate.py --out wrote; goes into the card.
        private: Whether only you can see it, if the repository is new.
        out: Write to this directory instead, to look at it or to upload it by other means.
    """
    model = DecisionTransformer.from_pretrained(latest_checkpoint(run_directory))
    if scores is not None:
        model.evaluations = read_scores(scores, model)
    if out is not None:
        model.save_pretrained(out, repo_id=repo_id)
        print(f"written to {out}; its card is {out / 'README.md'}")
    else:
        print(f"uploaded: {model.push_to_hub(repo_id, private=private or None)}")


def read_scores(path: Path, model: DecisionTransformer) -> tuple[ReportedEvaluation, ...]:
    """Read the evaluations of a file that evaluate.py wrote."""
    try:
        content = json.loads(path.read_text())
        game, runs = content["game"], content["runs"]
        if len(runs) != 1:
            raise InputError(f"{path} holds scores of {len(runs)} runs; evaluate this one alone")
        evaluations = tuple(map(ReportedEvaluation.from_json, runs[0]["evaluations"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} holds no scores ({type(error).__name__}: {error}); make it with evaluate.py --out"
        ) from error
    if model.dataset is not None and game != model.dataset.game:
        raise InputError(f"{path} holds scores in {game}, but the model plays {model.dataset.game}")
    return evaluations


if __name__ == "__main__":
    run(main)
