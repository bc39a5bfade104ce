"""Model cards, and readable errors for the Hugging Face Hub."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from replay_data import InputError

if TYPE_CHECKING:
    from atari_dt.model.decision_transformer import DecisionTransformer

_CARD = """
# {title}

{kind} (Chen et al., NeurIPS 2021) that reads four stacked 84×84 frames a step. It was trained with atari-dt.

```python
from atari_dt.model import DecisionTransformer

model = DecisionTransformer.from_pretrained("{repo_id}")
```

## Scores

{scores}

## Data

{data}

## Settings

{settings}
"""


def model_card(model: DecisionTransformer, repo_id: str) -> ModelCard:
    """Describe a model: the data and settings it was trained with, and the scores it was evaluated at.

    Args:
        model: the model.
        repo_id: where it can be had, such as ``"user/name"``.
    """
    game = model.dataset.game if model.dataset else "an unknown Atari game"
    kind = "A Decision Transformer" if model.config.conditioning == "return" else "Behavior cloning"
    results = [
        EvalResult(
            task_type="reinforcement-learning",
            task_name="reinforcement learning",
            dataset_type=f"ALE/{game}-v5",
            dataset_name=game,
            metric_type="mean_reward",
            metric_name=f"mean score, target return {_target(evaluation)}",
            metric_value=_score(evaluation),
        )
        for evaluation in model.evaluations
    ]
    data = ModelCardData(
        library_name="atari-dt",
        pipeline_tag="reinforcement-learning",
        tags=["atari", "decision-transformer", "model_hub_mixin", "offline-reinforcement-learning"],
        model_name=repo_id.rpartition("/")[2] if results else None,
        eval_results=results or None,
    )
    rows = [(_target(evaluation), _score(evaluation), len(evaluation["scores"])) for evaluation in model.evaluations]
    content = _CARD.format(
        title=f"{kind.removeprefix('A ')} for {game}",
        kind=f"{kind} for {game}",
        repo_id=repo_id,
        scores=_table(("target return", "score, mean ± standard deviation", "episodes"), rows)
        if rows
        else "It was not evaluated.",
        data=_table(("", ""), _fields(vars(model.dataset))) if model.dataset else "Not recorded.",
        settings=_table(("", ""), _fields({**vars(model.config), **(model.training_config or {})})),
    )
    return ModelCard(f"---\n{data.to_yaml()}\n---\n{content}")


@contextmanager
def translate_hub_errors(repo_id: str, doing: str) -> Iterator[None]:
    """Turn what the Hub's library raises, on the network or for a bad name, into one InputError.

    Raises:
        InputError: if the repository is not there, or not to be read or written, or the network is down.
    """
    try:
        yield
    except Exception as error:
        packages = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
        if not packages & {"huggingface_hub", "httpx", "httpx2", "requests"}:
            raise
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{repo_id!r} cannot be {doing} the Hugging Face Hub ({reason})") from error


def _target(evaluation: dict[str, Any]) -> str:
    if evaluation["return_multiple"] is None:
        return "none"
    return f"{evaluation['target_return']:.1f} ({evaluation['return_multiple']:g} × the data's largest)"


def _score(evaluation: dict[str, Any]) -> str:
    return f"{evaluation['mean_score']:.1f} ± {evaluation['std_score']:.1f}"


def _fields(values: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        (name, ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value))
        for name, value in values.items()
        if value is not None
    ]


def _table(header: tuple[str, ...], rows: list[Any]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
