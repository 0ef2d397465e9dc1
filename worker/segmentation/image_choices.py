"""Scores of the choices of a question about an image -> its answer.

A choice that has the words of a label is in the image where a region of the label is, with the region's score. For all
others the choices of one question compete for the image as labels do, with the background against them; one is there
where enough of the image is its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from plugin_config.vocabulary import Choices

Texts = tuple[str, ...]


@dataclass(frozen=True)
class ChoiceAnswer:
    """What was chosen: one or more keys, of a question for one alone a single one, and how sure that is, 0 to 1."""

    choices: Choices
    keys: tuple[str, ...]
    score: float


def answer_choices(choices: Choices, scores: Mapping[Texts, float], *, least_score: float) -> ChoiceAnswer | None:
    """Choose what the image shows.

    Args:
        choices: the question.
        scores: how sure it is that something is in the image, 0 to 1, by its texts; what is missing is not.
        least_score: from which a choice counts as there.

    Returns:
        all choices that are there, or the one of the highest score; its score is that of the least sure of them. None
        where none is there: Label Studio has no answer for that but none.
    """
    sure = {choice.key: scores.get(choice.texts, 0.0) for choice in choices.choices}
    there = {key: score for key, score in sure.items() if score >= least_score}
    if not there:
        return None
    best = max(there, key=lambda key: there[key])
    keys = tuple(there) if choices.multiple else (best,)
    return ChoiceAnswer(choices, keys, min(there[key] for key in keys))
