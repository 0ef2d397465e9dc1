"""Predictions as Label Studio keeps them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_LEAST_MISSED = 1e-6  # 0 is what Label Studio has where nothing is noted


@dataclass(frozen=True)
class StoredPrediction:
    """A prediction as Label Studio keeps it.

    Attributes:
        id: of the prediction; `task` it belongs to.
        version: of the model that made it; "" = none is noted.
        result: its regions and answers.
        score: by which tasks are ordered.
        missed: how likely something is there that was not predicted, in (0, 1], of a prediction without regions: Label
            Studio's `mislabeling`, which it uses for nothing; None = not noted.
    """

    id: int
    task: int
    version: str
    result: Sequence[Mapping[str, Any]]
    score: float | None
    missed: float | None = None


def prediction_body(
    task: int, result: Sequence[Mapping[str, Any]], *, score: float, version: str, missed: float | None
) -> dict[str, Any]:
    """What is sent to store a prediction; arguments as the attributes of `StoredPrediction`, `missed` in [0, 1]."""
    body = {"task": task, "result": list(result), "score": score, "model_version": version}
    return body if missed is None else body | {"mislabeling": max(missed, _LEAST_MISSED)}


def read_prediction(row: Any) -> StoredPrediction:
    """Read a row of the API.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: it is none.
    """
    # Label Studio stores null for a result that is an object, and whatever an import brought in a list.
    stored, version = row["result"], str(row.get("model_version") or "")
    result = [item for item in stored if isinstance(item, Mapping)] if isinstance(stored, list) else []
    missed = row.get("mislabeling")
    is_noted = isinstance(missed, int | float) and not isinstance(missed, bool) and 0 < missed <= 1
    return StoredPrediction(int(row["id"]), int(row["task"]), version, result, row.get("score"),
                            float(missed) if is_noted else None)  # fmt: skip
