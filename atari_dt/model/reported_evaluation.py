"""The scores that a checkpoint and its model card report."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from replay_data.json_fields import omit_none, read_field, read_list, read_object, read_optional_field


@dataclass(frozen=True)
class ReportedEvaluation:
    """Scores of one model under one target return.

    Attributes:
        return_multiple: Multiple of the dataset's largest return; None for a target return given another way, and for
            models without target returns.
        target_return: Target return in the dataset's reward units; None for models without target returns.
        scores: Score of each episode, in the game's points.
        mean_score: Mean of the scores.
        std_score: Population standard deviation of the scores.
        return_percentile: Percentile of the dataset's episode returns; None for a target return given another way, for
            models without target returns, and in older files.
    """

    return_multiple: float | None
    target_return: float | None
    scores: tuple[float, ...]
    mean_score: float
    std_score: float
    return_percentile: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object that `from_json` reads."""
        return omit_none({**dataclasses.asdict(self), "scores": list(self.scores)}, "return_percentile")

    @classmethod
    def from_json(cls, content: Any) -> ReportedEvaluation:
        """Read a JSON object with these fields; other keys are ignored.

        Raises:
            ValueError, KeyError, TypeError: If the content is anything else.
        """
        return cls(
            return_multiple=_read_number_or_null(content, "return_multiple"),
            target_return=_read_number_or_null(content, "target_return"),
            scores=read_list(content, "scores", float),
            mean_score=read_field(content, "mean_score", float),
            std_score=read_field(content, "std_score", float),
            return_percentile=read_optional_field(content, "return_percentile", int),
        )


def _read_number_or_null(content: Any, name: str) -> float | None:
    """Return a field that must be there, but may be null."""
    return None if read_object(content)[name] is None else read_field(content, name, float)
