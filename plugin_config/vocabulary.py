"""Labeling config -> Vocabulary: which labels to look for, in which words, and which control draws them.

It must not know how labels are found in pixels, nor where the config came from.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal

from label_studio_sdk._legacy.exceptions import (
    LabelStudioValidationErrorSentryIgnored,
    LabelStudioXMLSyntaxErrorSentryIgnored,
    LSConfigParseException,
)
from label_studio_sdk.label_interface import LabelInterface

from plugin_config.config_bounds import check_bounds
from plugin_config.errors import LabelingConfigError

OutputKind = Literal["brush", "polygon", "rectangle"]
OUTPUT_KINDS: dict[str, OutputKind] = {
    "BrushLabels": "brush",
    "PolygonLabels": "polygon",
    "RectangleLabels": "rectangle",
}
# What the SDK's XML and tag parsers raise; lxml's XMLSyntaxError is a SyntaxError. All mean "no labeling config".
_UNREADABLE = (
    LabelStudioXMLSyntaxErrorSentryIgnored,
    LabelStudioValidationErrorSentryIgnored,
    LSConfigParseException,
    SyntaxError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
)
MOST_TEXTS_OF_LABEL = 64
MOST_TEXTS = 20_000
"""Texts of all labels together: each is encoded by the model once per worker."""

MOST_TEXT_CHARACTERS = 1000
"""Of a text, of what regions carry, and of the names that every label refers to; no model reads more."""

SEGMENTS = ("semantic", "instance", "panoptic")
_EXAMPLE = "See plugin_config/labeling_configs/brush.xml for one that works."


@dataclass(frozen=True)
class Label:
    """One label of one control.

    Attributes:
        key: what a region must carry: the label's `alias` when it has one, else its `value`.
        texts: what to look for: the `prompt` attribute (comma list) when given, else the value, its `synonyms` (comma
            list), and the value as its `hint` describes it, which annotators see as a tooltip.
        control: name of the control tag; `to_name`: name of the Image tag it draws on; `image_key`: the key of the
            task's data that holds the image's address.
        output: the region type the control draws.
        stuff: whether all of the label makes one region, or each thing its own. In `segments="panoptic"`, the default,
            its `kind="stuff"` says so (sky, grass); in "semantic" every label is so, in "instance" none. `segments` is
            an attribute of the control, or of a label where it is to differ.
    """

    key: str
    texts: tuple[str, ...]
    control: str
    to_name: str
    image_key: str
    output: OutputKind
    stuff: bool = False


@dataclass(frozen=True)
class Vocabulary:
    """All labels of a labeling config that can be drawn on its image, in the config's order."""

    labels: tuple[Label, ...]

    @cached_property
    def hash(self) -> str:
        """8 hex digits that change when anything that changes the predictions changes; the order does not count."""
        rows = sorted(json.dumps(asdict(label), sort_keys=True) for label in self.labels)
        return hashlib.sha256("\n".join(rows).encode()).hexdigest()[:8]

    @cached_property
    def words(self) -> tuple[tuple[str, ...], ...]:
        """The texts of each class. A label that several controls offer is one class, drawn by each of them."""
        return tuple(dict.fromkeys(label.texts for label in self.labels))

    @property
    def image_key(self) -> str:
        """Key of the task's data that holds the address of the (first) image."""
        return self.labels[0].image_key


def parse_vocabulary(label_config: str) -> Vocabulary:
    """Read the vocabulary out of a labeling config.

    Args:
        label_config: the project's labeling config, XML.

    Raises:
        LabelingConfigError: not XML, larger than `plugin_config.config_bounds` allows, no control that draws masks,
            polygons or boxes on an Image, no labels in it, labels that come from the task's data (`value="$labels"`),
            `segments` that is none of SEGMENTS, or more or longer texts than the model should read.
    """
    interface = _interface(label_config)
    images = {name: tag for name, tag in interface._objects.items() if tag.tag == "Image"}
    labels: list[Label] = []
    dynamic: list[str] = []
    for control in interface.controls:
        targets = [name for name in control.to_name or [] if name in images]
        if control.tag not in OUTPUT_KINDS or not targets:
            continue
        if control.dynamic_value:
            dynamic.append(control.name)
        image_key = str(images[targets[0]].value_name or "image")
        for name in (control.name, targets[0], image_key, (control.attr or {}).get("segments") or ""):
            _check_length(f"control {control.name[:60]!r}", name)
        for key, tag in (control.labels_attrs or {}).items():
            labels.append(_label(str(key), tag.attr or {}, control, targets[0], image_key))
    if not labels:
        raise LabelingConfigError("labeling config", _nothing_found(interface, dynamic), _EXAMPLE)
    if sum(len(label.texts) for label in labels) > MOST_TEXTS:
        problem = f"has more than {MOST_TEXTS:,} labels, synonyms, hints and prompts"
        raise LabelingConfigError("labeling config", problem, "Take out some, or split the project.")
    first_image = labels[0].to_name
    return Vocabulary(tuple(label for label in labels if label.to_name == first_image))


def _interface(label_config: str) -> Any:
    if not label_config.strip():
        raise LabelingConfigError("labeling config", "is empty", _EXAMPLE)
    check_bounds(label_config)
    try:
        return LabelInterface(label_config)
    except _UNREADABLE as error:
        raise LabelingConfigError("labeling config", f"cannot be read ({str(error)[:300]})", _EXAMPLE) from error


def _label(key: str, attributes: dict[str, str], control: Any, to_name: str, image_key: str) -> Label:
    texts = _texts(attributes.get("value", key), attributes)
    subject = f"label {key[:60]!r}"
    for text in (key, *texts):
        _check_length(subject, text)
    if len(texts) > MOST_TEXTS_OF_LABEL:
        problem = f"has {len(texts):,} texts to look for; at most {MOST_TEXTS_OF_LABEL} are read"
        raise LabelingConfigError(subject, problem, "Take out some of its synonyms or prompts.")
    return Label(
        key=key,
        texts=texts,
        control=control.name,
        to_name=to_name,
        image_key=image_key,
        output=OUTPUT_KINDS[control.tag],
        stuff=_is_stuff(attributes, control),
    )


def _check_length(subject: str, text: str) -> None:
    if len(text) > MOST_TEXT_CHARACTERS:
        problem = f"has a text or name of {len(text):,} characters; at most {MOST_TEXT_CHARACTERS} are read"
        raise LabelingConfigError(subject, problem, f"Shorten the one that begins with {text[:60]!r}.")


def _texts(value: str, attributes: dict[str, str]) -> tuple[str, ...]:
    """What a label's attributes say to look for, each text once."""
    prompts = _comma_list(attributes.get("prompt", ""))
    if prompts:
        return tuple(dict.fromkeys(prompts))
    hint = " ".join(attributes.get("hint", "").split()).rstrip(".")
    described = (f"{value}, {hint}",) if hint else ()  # the label's word stays in it: a hint may say "the furry ones"
    return tuple(dict.fromkeys((value, *_comma_list(attributes.get("synonyms", "")), *described)))


def _is_stuff(attributes: dict[str, str], control: Any) -> bool:
    segments = (attributes.get("segments") or (control.attr or {}).get("segments") or "panoptic").strip().lower()
    if segments not in SEGMENTS:
        remedy = f"Write one of {', '.join(SEGMENTS)}; see plugin_config/labeling_configs/panoptic.xml."
        raise LabelingConfigError(f"control {control.name!r}", f"has segments={segments[:60]!r}", remedy)
    kind = attributes.get("kind", "").strip().lower()
    return segments == "semantic" or (segments == "panoptic" and kind == "stuff")


def _comma_list(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _nothing_found(interface: Any, dynamic: list[str]) -> str:
    if dynamic:
        return f"the labels of {', '.join(dynamic)[:300]} come from the task's data, which is not supported yet"
    found = ", ".join(f"{control.tag} {control.name!r}" for control in interface.controls) or "no control at all"
    return f"no {', '.join(OUTPUT_KINDS)} with labels over an Image; found: {found[:300]}"
