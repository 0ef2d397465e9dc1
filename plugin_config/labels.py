"""The Label tags of a control -> what their regions carry, which words are looked for, and which are left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from plugin_config.controls import Control
from plugin_config.errors import LabelingConfigError
from plugin_config.labeling_config import Tag
from plugin_config.options import (
    HINT,
    KIND,
    LEAST_AREA,
    NEGATIVE,
    PROMPT,
    SEGMENT,
    SKIP,
    SYNONYMS,
    THRESHOLD,
    LeastArea,
    read_option,
)
from plugin_config.task_variables import VARIABLE

MOST_TEXTS_OF_LABEL = 64
MOST_TEXT_CHARACTERS = 1000
"""Characters of a text, of a region's label, and of the names that every label refers to; no model reads more."""

_MOST_NAMES = 5  # in a sentence


@dataclass(frozen=True, eq=False)
class OfferedLabel:
    """A label as one control offers it to annotators, equal to itself alone.

    Attributes:
        control: its control.
        key: what regions of the label carry.
        texts: what to look for.
        has_prompt: whether these are its attribute `prompt`.
        stuff: whether all pixels of the label make one region.
        semantic: whether that is because of `segments="semantic"`.
        least_score: below which its regions are left out; None = the setting's.
        least_area: below which they are.
        negatives: rival words.
        skip: whether it is for annotators alone.
    """

    control: Control
    key: str
    texts: tuple[str, ...]
    has_prompt: bool
    stuff: bool
    semantic: bool
    least_score: float | None
    least_area: LeastArea
    negatives: tuple[str, ...]
    skip: bool


def offered_labels(control: Control) -> tuple[list[OfferedLabel], list[str]]:
    """Read the labels of a control.

    Returns:
        those that annotators can use and that have words, in order, and a remark on each kind of the others.

    Raises:
        LabelingConfigError: a label is beyond a limit, or an option has a value that it cannot have.
    """
    title = control.tag.title
    for name in (control.tag.name, control.image.name, control.image_value, control.tag.attributes.get("segments", "")):
        check_length(title, name)
    for option in (SEGMENT, THRESHOLD, LEAST_AREA, NEGATIVE, SKIP):
        read_option(option, control.tag)  # a wrong value is told even where each label has its own
    offered: list[OfferedLabel] = []
    remarks: list[str] = []
    without_words: list[str] = []
    first: dict[str, Tag] = {}  # name in a region -> the label that the editor shows for it
    for label in control.labels:
        key, words = label.attributes.get("alias") or label.value, _shown_words(label)
        if not key.strip() or not (words or PROMPT.read(label.attributes.get("prompt", ""))):
            without_words.append(key)
            continue
        for alternative in (label.attributes.get("alias", ""), label.value):
            if alternative:
                first.setdefault(alternative, label)
        if first[key] is not label:
            remarks.append(_collision(title, label, first[key], key))
            continue
        offered.append(_offered(control, label, key, words, remarks))
    if without_words:
        named = listed([key for key in without_words if key.strip()])
        told = f"labels whose words the task's data gives: {named}" if named else "labels without a value"
        remarks.insert(0, f"{title}: {len(without_words)} left out, {told}.")
    return offered, remarks


def listed(names: Sequence[str]) -> str:
    """The first names for a sentence, and how many more there are."""
    shown = [repr(name[:60]) for name in names[:_MOST_NAMES]]
    if len(names) > _MOST_NAMES:
        shown.append(f"{len(names) - _MOST_NAMES} more")
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


def check_length(subject: str, text: str) -> None:
    """Refuse a text or name that no model and no region could take.

    Raises:
        LabelingConfigError: it is too long.
    """
    if len(text) > MOST_TEXT_CHARACTERS:
        problem = f"has a text or name of {len(text):,} characters; at most {MOST_TEXT_CHARACTERS} are read"
        raise LabelingConfigError(subject, problem, f"Shorten the one that begins with {text[:60]!r}.")


def _shown_words(label: Tag) -> str:
    """What annotators read on a label, with white space as it is written; its alias where that is different for each
    task; "" = nothing.
    """
    for words in (label.text or label.value, label.attributes.get("alias", "")):
        if words.strip() and not VARIABLE.search(words):
            return words
    return ""


def _collision(title: str, label: Tag, winner: Tag, key: str) -> str:
    if (winner.value, winner.attributes.get("alias")) == (label.value, label.attributes.get("alias")):
        return f"{title}: label {key[:60]!r} stands in it twice; only the first is read."
    return (
        f"{title}: label {_called(label)} is left out, because Label Studio shows regions of {key[:60]!r} as "
        f"{_called(winner)}, which is before it; give one of them another alias."
    )


def _called(label: Tag) -> str:
    alias = label.attributes.get("alias")
    return f"{label.value[:60]!r} (alias {alias[:60]!r})" if alias else repr(label.value[:60])


def _offered(control: Control, label: Tag, key: str, words: str, remarks: list[str]) -> OfferedLabel:
    tag, subject = control.tag, f"label {key[:60]!r}"
    prompts = read_option(PROMPT, tag, label)
    texts = prompts or _texts(words, read_option(SYNONYMS, tag, label), read_option(HINT, tag, label))
    negatives = read_option(NEGATIVE, tag, label)
    for text in (key, *texts, *negatives):
        check_length(subject, text)
    if len(texts) > MOST_TEXTS_OF_LABEL or len(negatives) > MOST_TEXTS_OF_LABEL:
        problem = f"has {max(len(texts), len(negatives)):,} texts to look for; at most {MOST_TEXTS_OF_LABEL} are read"
        raise LabelingConfigError(subject, problem, "Take out some of its synonyms, prompts or negative words.")
    segments = read_option(SEGMENT, tag, label)
    semantic = segments == "semantic"
    stuff = semantic or (segments == "panoptic" and _kind(control, label, remarks) == "stuff")
    return OfferedLabel(
        control, key, texts, bool(prompts), stuff, semantic,
        least_score=read_option(THRESHOLD, tag, label), least_area=read_option(LEAST_AREA, tag, label),
        negatives=negatives, skip=read_option(SKIP, tag, label),
    )  # fmt: skip


def _kind(control: Control, label: Tag, remarks: list[str]) -> str:
    """The kind of a label; a word that is none was always read as the default, and is told."""
    try:
        found: str = read_option(KIND, control.tag, label)
    except LabelingConfigError as error:
        remarks.append(f"{error.subject}: {error.problem}, which counts as {KIND.without}. {error.remedy}")
        return str(KIND.without)
    return found


def _texts(words: str, synonyms: tuple[str, ...], hint: str) -> tuple[str, ...]:
    """The texts to look for, each once."""
    described = (f"{words}, {hint}",) if hint else ()  # with the words: a hint may be "the furry ones"
    return tuple(dict.fromkeys((words, *synonyms, *described)))
