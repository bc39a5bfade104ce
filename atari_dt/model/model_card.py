"""Model cards."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from atari_dt.games.presets import describe_deviations
from atari_dt.method_config import HFDecisionTransformerConfig
from atari_dt.model.checkpoint_config import CheckpointConfig
from atari_dt.model.dataset_info import DatasetInfo
from atari_dt.model.reported_evaluation import ReportedEvaluation
from replay_data.observation import ObservationSpec

_TEMPLATE = """
# {title}

{title} ({source}). The model reads {observation} per step and was trained with atari-dt. {weights}

```python
from atari_dt.methods import load_model

model = load_model("{repo_id}")
```
{commands}{transformers}
## Scores

{scores}

## Data

{data}

## Settings

{deviations}

{settings}

## License

{license}
"""

_COMMANDS = """
In a clone of atari-dt, evaluate the model, and draw a web page to step through an episode:

```bash
{commands}
```
"""

_TRANSFORMERS = """
transformers loads the weights without atari-dt:

```python
from transformers import DecisionTransformerModel

model = DecisionTransformerModel.from_pretrained("{repo_id}"{dtype})
scaling = model.config.atari_dt["scaling"]
```

States are bytes, normalized as `(state - scaling["mean"]) / scaling["scale"]`; returns-to-go are in the dataset's
reward units, divided by `scaling["returns"]`; actions are one-hot vectors; contexts have {context_length} steps and are
padded on the left; `action_preds` are logits.
"""


@dataclass(frozen=True)
class CardInfo:
    """What a model card says besides the content of ``config.json``.

    Attributes:
        repo_id: Repository on the Hub, such as ``"user/name"``, or a checkpoint directory.
        num_parameters: Number of parameters of the network.
        dtype: Dtype of the stored matrices, such as ``"bfloat16"``.
        license: License of the weights, as the Hub names it, such as ``"mit"``; None if it is not stated.
        commands: Lines of a shell that play the model in a clone of this project.
    """

    repo_id: str
    num_parameters: int
    dtype: str = "float32"
    license: str | None = None
    commands: tuple[str, ...] = ()


def make_model_card(config: CheckpointConfig, info: CardInfo) -> ModelCard:
    """Return a model card with the model's training data, settings and scores.

    Args:
        config: Content of the checkpoint's ``config.json``.
        info: What the card says besides.
    """
    game = config.dataset.game if config.dataset else "an unknown Atari game"
    title = config.model.title[0].upper() + config.model.title[1:]
    method_tag = config.model.title.partition(" (")[0].lower().replace(" ", "-")
    results = [
        EvalResult(
            task_type="reinforcement-learning",
            task_name="reinforcement learning",
            dataset_type=f"ALE/{game}-v5",
            dataset_name=game,
            metric_type="mean_reward",
            metric_name=f"mean score, target return {_format_target_return(evaluation)}",
            metric_value=_format_score(evaluation),
        )
        for evaluation in config.evaluations
    ]
    data = ModelCardData(
        license=info.license,
        library_name="atari-dt",
        pipeline_tag="reinforcement-learning",
        tags=["atari", method_tag, "model_hub_mixin", "offline-reinforcement-learning"],
        model_name=info.repo_id.rpartition("/")[2] if results else None,
        eval_results=results or None,
    )
    rows = [
        (_format_target_return(evaluation), _format_score(evaluation), str(len(evaluation.scores)))
        for evaluation in config.evaluations
    ]
    deviations = describe_deviations(config.dataset.game if config.dataset else "", config.model, config.training)
    settings = {**vars(config.model), **(vars(config.training) if config.training else {})}
    content = _TEMPLATE.format(
        title=f"{title} for {game}",
        source=config.model.source,
        observation=_describe_observation(config.observation),
        weights=_describe_weights(info),
        repo_id=info.repo_id,
        commands=_COMMANDS.format(commands="\n".join(info.commands)) if info.commands else "",
        transformers=_describe_transformers(config, info),
        scores=_make_table(("target return", "score, mean ± standard deviation", "episodes"), rows)
        if rows
        else "The model was not evaluated.",
        data=_make_table(("", ""), _format_dataset(config.dataset)) if config.dataset else "Not recorded.",
        deviations=f"Unlike in the paper: {deviations}." if deviations else "As in the paper.",
        settings=_make_table(("", ""), _format_fields(settings)),
        license=f"The weights have the license {info.license}." if info.license else "Not stated.",
    )
    return ModelCard(f"---\n{data.to_yaml()}\n---\n{content}")


def _describe_observation(observation: ObservationSpec) -> str:
    """Return what a model observes, as the object of a sentence."""
    if observation.kind == "frames":
        return "four stacked 84×84 frames"
    if observation.kind == "ram":
        return "the 128 bytes of the emulator's RAM"
    count = len(observation.names)
    variables = "1 variable" if count == 1 else f"{count} variables"
    return f"{variables} of the emulator's RAM ({', '.join(observation.names)})"


def _describe_weights(info: CardInfo) -> str:
    """Return the number of parameters and how they are stored, as a sentence."""
    if info.dtype == "float32":
        return f"The network has {info.num_parameters:,} parameters."
    return (
        f"The network has {info.num_parameters:,} parameters. Its matrices and convolutions are stored in "
        f"{info.dtype}, everything else in float32; atari-dt computes in float32."
    )


def _describe_transformers(config: CheckpointConfig, info: CardInfo) -> str:
    """Return how transformers loads a checkpoint, or an empty string if it cannot."""
    if not isinstance(config.model, HFDecisionTransformerConfig):
        return ""
    # By default, transformers computes in the dtype of the weights.
    dtype = "" if info.dtype == "float32" else ', dtype="float32"'
    return _TRANSFORMERS.format(repo_id=info.repo_id, dtype=dtype, context_length=config.model.context_length)


def _format_target_return(evaluation: ReportedEvaluation) -> str:
    if evaluation.target_return is None:
        return "none"
    if evaluation.return_percentile is not None:
        return f"{evaluation.target_return:.1f} (percentile {evaluation.return_percentile} of the data's returns)"
    if evaluation.return_multiple is None:
        return f"{evaluation.target_return:.1f}"
    return f"{evaluation.target_return:.1f} ({evaluation.return_multiple:g} × the data's largest)"


def _format_score(evaluation: ReportedEvaluation) -> str:
    return f"{evaluation.mean_score:.1f} ± {evaluation.std_score:.1f}"


def _format_dataset(dataset: DatasetInfo) -> list[tuple[str, str]]:
    """Return the name and value of each known field, without the percentiles, which are too many for a table."""
    return _format_fields({name: value for name, value in vars(dataset).items() if name != "return_percentiles"})


def _format_fields(fields: Mapping[str, object]) -> list[tuple[str, str]]:
    """Return the name and value of each field that is neither None nor empty."""
    return [
        (name, ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value))
        for name, value in fields.items()
        if value is not None and value != ()
    ]


def _make_table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """Return a Markdown table."""
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
