"""The options of a labeling config: attributes of a control or a label that change what is predicted.

`OPTIONS` is the one table of them. The parser reads it, and docs/reference/controls.md is generated from it. An
attribute that is empty counts as absent; what stands on a label goes before what stands on its control.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from plugin_config.control_tags import RANKS
from plugin_config.errors import LabelingConfigError
from plugin_config.labeling_config import Tag

SEGMENTS = ("semantic", "instance", "panoptic")
KINDS = ("thing", "stuff")

Place = Literal["a control", "a label", "a control or a label"]


@dataclass(frozen=True)
class LeastArea:
    """The area below which a segment is left out; both bounds hold.

    Attributes:
        pixels: of the image as it is stored.
        share: of the image's area, 0 to 1.
    """

    pixels: float = 0.0
    share: float = 0.0


@dataclass(frozen=True)
class Option:
    """One attribute.

    Attributes:
        name: of the attribute, in lower case.
        on: the tags that may have it.
        values: what may be written, for people.
        default: what counts without it, for people.
        effect: for people.
        read: parses what is written; raises ValueError where that is no value of the option.
        without: the value where it is not written.
        other_names: further names of the attribute.
    """

    name: str
    on: Place
    values: str
    default: str
    effect: str
    read: Callable[[str], Any]
    without: Any = None
    other_names: tuple[str, ...] = ()


def _score(text: str) -> float:
    score = float(text)
    if not 0 <= score <= 1:
        raise ValueError(text)
    return score


def _switch(text: str) -> bool:
    return {"true": True, "false": False}[text.lower()]


def _area(text: str) -> LeastArea:
    found = re.fullmatch(r"([0-9.]+)\s*(%|px)?", text)
    number = float(found[1]) if found else math.nan
    is_share = found is not None and found[2] == "%"
    if not 0 <= number <= (100 if is_share else 1e12):
        raise ValueError(text)
    return LeastArea(share=number / 100) if is_share else LeastArea(pixels=number)


def _words(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def _hint(text: str) -> str:
    return " ".join(text.split()).rstrip(".")


def _one_of(*allowed: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text.lower() not in allowed:
            raise ValueError(text)
        return text.lower()

    return read


SYNONYMS = Option(
    "synonyms", "a label", "words, separated by commas", "none", "further words to look for", _words, ()
)
HINT = Option(
    "hint", "a label", "a text", "none",
    "the tooltip that annotators see; the model reads it as a description of the label", _hint, "",
)  # fmt: skip
PROMPT = Option(
    "prompt", "a label", "words, separated by commas", "none", "looked for in place of value, synonyms and hint",
    _words, (),
)  # fmt: skip
NEGATIVE = Option(
    "negative", "a control or a label", "words, separated by commas", "none",
    "rivals: what looks more like one of these words than like a label gets no region. Words that a label looks for "
    "are passed over", _words, (),
)  # fmt: skip
KIND = Option(
    "kind", "a label", "`thing`, `stuff`", "`thing`",
    "`stuff`: one region for all of the label, under a control with `segments=\"panoptic\"`", _one_of(*KINDS), "thing",
)  # fmt: skip
SEGMENT = Option(
    "segments", "a control or a label", "`semantic`, `instance`, `panoptic`", "`panoptic`",
    "`semantic`: one region per label; `instance`: one per thing; `panoptic`: one per thing, and one per label of "
    "`kind=\"stuff\"`", _one_of(*SEGMENTS), "panoptic",
)  # fmt: skip
THRESHOLD = Option(
    "model_score_threshold", "a control or a label", "a number from 0 to 1", "`ZEROMASK_LEAST_SCORE`",
    "regions of a lower score are left out, whatever the model", _score,
)  # fmt: skip
LEAST_AREA = Option(
    "min_area", "a control or a label", "pixels of the image, `400`, or a share of it, `0.5%`", "0",
    "smaller regions are left out; specks of less than 0.05 % of the image always are", _area, LeastArea(),
)  # fmt: skip
OUTPUT = Option(
    "output", "a control", ", ".join(f"`{kind}`" for kind in RANKS), "the most exact shape beside it",
    "of a `Labels` control: which of the shape tags beside it draws. Other controls draw one kind alone",
    _one_of(*RANKS),
)  # fmt: skip
SKIP = Option(
    "model_skip", "a control or a label", "`true`, `false`", "`false`",
    "`true`: for annotators alone. It gets no region unless another control has the label, and what they draw is "
    "learned from", _switch, False, ("skip",),
)  # fmt: skip

OPTIONS: tuple[Option, ...] = (SYNONYMS, HINT, PROMPT, NEGATIVE, KIND, SEGMENT, THRESHOLD, LEAST_AREA, OUTPUT, SKIP)
"""Every option, in the order of the documentation."""

CONTROL_OPTIONS = frozenset(
    name for option in OPTIONS if "control" in option.on for name in (option.name, *option.other_names)
) | {"choice"}
"""Attributes of a control that change what is predicted, whatever its labels are."""


def read_option(option: Option, control: Tag, label: Tag | None = None) -> Any:
    """Read an option of a label, or of the control as a whole.

    Args:
        option: of OPTIONS.
        control: the control's tag.
        label: the label's tag; None = only the control is asked.

    Raises:
        LabelingConfigError: the value is none of the option's.
    """
    tags = [tag for tag, place in ((label, "label"), (control, "control")) if tag is not None and place in option.on]
    for tag in tags:
        for name in (option.name, *option.other_names):
            text = tag.attributes.get(name, "").strip()
            if not text:
                continue
            try:
                return option.read(text)
            except (ValueError, KeyError) as error:
                whose = "has" if tag is control else f"label {tag.value[:60]!r} has"
                problem = f"{whose} {name}={text[:60]!r}"
                remedy = f"Write {option.values.replace('`', '')}; see Options in docs/reference/controls.md."
                raise LabelingConfigError(control.title, problem, remedy) from error
    return option.without


def options_table() -> str:
    """The Markdown table of all options."""
    rows = ["| attribute | on | values | default | effect |", "|---|---|---|---|---|"]
    for option in OPTIONS:
        names = " or ".join(f"`{name}`" for name in (option.name, *option.other_names))
        rows.append(f"| {names} | {option.on} | {option.values} | {option.default} | {option.effect} |")
    return "\n".join(rows)
