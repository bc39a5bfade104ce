"""Share a trained model: write it with its model card to a directory, or upload it to the Hugging Face Hub."""

from __future__ import annotations

from atari_dt.interrupts import exit_on_interrupt

exit_on_interrupt(__name__)

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from atari_dt.command_line import run
from replay_data import InputError

if TYPE_CHECKING:
    from atari_dt.evaluation.scores import EvaluationScores
    from atari_dt.model import DatasetInfo, PretrainedModel


def main(
    run_directory: tyro.conf.Positional[Path],
    repo_id: str | None = None,
    scores: Path | None = None,
    dtype: Literal["float32", "bfloat16", "float16"] | None = None,
    license: str | None = None,
    private: bool = False,
    out: Path | None = None,
) -> None:
    """Upload the newest checkpoint of a run, with a model card that describes its data, settings and scores, or write
    both to a directory.

    Args:
        run_directory: Run directory written by scripts/train.py, or one of its checkpoints.
        repo_id: Repository on the Hub, such as user/breakout-dt. Log in first: `hf auth login`. Not needed with --out.
        scores: The scores.json written by scripts/evaluate.py --out; the model card reports its scores.
        dtype: Dtype of the stored matrices and convolutions; everything else is stored in float32. bfloat16 and float16
            halve the file. Loading converts to float32. By default as in the checkpoint: float32 for one of a run.
        license: License of the weights, by its name on the Hub, such as mit or cc-by-4.0; the model card states it.
        private: Whether a new repository is private.
        out: Directory to write instead of uploading.
    """
    import torch

    from atari_dt.methods import load_model
    from atari_dt.model import latest_checkpoint

    if repo_id is None and out is None:
        raise InputError("`repo_id` is missing; name a repository to upload to, or give `out`")
    if license is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", license):
        raise InputError(
            f"`license` must be a name that the Hub knows, such as mit, apache-2.0 or cc-by-4.0, not {license!r}"
        )
    model = load_model(latest_checkpoint(run_directory))
    if dtype is not None:
        model.weights_dtype = getattr(torch, dtype)
    directory = Path(str(repo_id).rpartition("/")[2]) if out is None else out
    if directory.is_absolute():  # says nothing on another machine
        directory = Path(directory.name)
    evaluated = None if scores is None else read_scores_of(scores, model)
    if evaluated is not None:
        model.evaluations = tuple(evaluation.reported() for evaluation in evaluated.runs[0].evaluations)
    commands = play_commands(model, directory, evaluated)
    if commands and out is None:
        commands = (f"hf download {repo_id} --local-dir {shlex.quote(directory.as_posix())}", *commands)
    card = {"license": license, "commands": commands}
    if out is not None:
        model.save_pretrained(out, repo_id=repo_id or directory.as_posix(), model_card_kwargs=card)
        size = (out / "model.safetensors").stat().st_size / 1e6
        print(f"written to {out} ({size:.1f} MB); its card is {out / 'README.md'}")
    else:
        assert repo_id is not None
        print(f"uploaded: {model.push_to_hub(repo_id, private=private or None, model_card_kwargs=card)}")


def read_scores_of(path: Path, model: PretrainedModel) -> EvaluationScores:
    """Read the scores that a model card reports.

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
    return scores


def play_commands(model: PretrainedModel, directory: Path, scores: EvaluationScores | None) -> tuple[str, ...]:
    """Return the commands of a model card: one evaluates the model, one draws a web page of an episode.

    Args:
        model: The model.
        directory: Directory of the checkpoint.
        scores: Scores of the card, whose settings the first command has; None for the default settings.
    """
    from atari_dt.method_config import SequenceConfig

    if model.dataset is None:  # without a game there is nothing to play
        return ()
    if isinstance(model.config, SequenceConfig):
        page = "visualize_attention.py"
    else:
        page = "visualize_plans.py" if model.config.plans else "visualize_saliency.py"
    settings = {} if scores is None else evaluation_settings(model, model.dataset, scores)
    options = [format_option(name, value) for name, value in settings.items()]
    path, page_path = (shlex.quote(name) for name in (directory.as_posix(), f"runs/{directory.name}-page"))
    return (
        " ".join(["python scripts/evaluate.py", path, *options]),
        f"python scripts/{page} {path} --out {page_path}",
    )


def evaluation_settings(model: PretrainedModel, dataset: DatasetInfo, scores: EvaluationScores) -> dict[str, Any]:
    """Return the settings of an evaluation that differ from the defaults of scripts/evaluate.py, by name.

    Args:
        model: Model that was evaluated.
        dataset: Its training data.
        scores: Scores of the evaluation.
    """
    from atari_dt.environment.config import FRAME_SKIP
    from atari_dt.evaluation.play_config import PlayConfig
    from atari_dt.evaluation.run_evaluation import DEFAULT_MULTIPLES
    from atari_dt.policies.planning_config import PlanningConfig
    from atari_dt.policies.protocol import PROTOCOLS

    targets: dict[str, list[float]] = {}
    for evaluation in scores.runs[0].evaluations:
        for name in ("return_multiple", "return_percentile", "target_return"):
            if (value := getattr(evaluation, name)) is not None:
                targets.setdefault(f"{name}s", []).append(value)
                break
    if targets == {"return_multiples": list(DEFAULT_MULTIPLES)}:
        targets = {}
    played = scores.protocol.resolved(dataset, model.config)
    by_protocol = {
        name: changed_settings(played, protocol.resolved(dataset, model.config)) for name, protocol in PROTOCOLS.items()
    }
    protocol = min(by_protocol, key=lambda name: len(by_protocol[name]))
    play = {
        "episodes": len(scores.runs[0].evaluations[0].scores),
        "max_steps": scores.max_frames // FRAME_SKIP,
        "seed": scores.seed,
    }
    return {
        **targets,
        **({} if protocol == "dopamine" else {"protocol": protocol}),
        **by_protocol[protocol],
        **changed_settings(scores.sampling, PlayConfig().sampling),
        **({} if scores.planning is None else changed_settings(scores.planning, PlanningConfig())),
        **{name: value for name, value in play.items() if value != getattr(PlayConfig(), name)},
    }


def changed_settings(settings: Any, defaults: Any) -> dict[str, Any]:
    """Return the fields of a dataclass that differ from those of another."""
    return {name: value for name, value in vars(settings).items() if value != getattr(defaults, name)}


def format_option(name: str, value: Any) -> str:
    """Return an option as it stands in a command."""
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return f"--{flag}" if value else f"--no-{flag}"
    values = value if isinstance(value, list) else [value]
    return " ".join([f"--{flag}", *(format(each, ".15g") if isinstance(each, float) else str(each) for each in values)])


if __name__ == "__main__":
    run(main)
