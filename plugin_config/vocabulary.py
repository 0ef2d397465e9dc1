"""Labeling config -> Vocabulary: which labels to look for, in which words, and which control tag draws them.

The size and shape of a config are checked first, in time linear in its length: label-studio-sdk copies the attributes
of a tag in time quadratic in their number and climbs from every label to the root, all while it holds Python's lock, so
a large config would stop everything else in the process. libxml2 reads in linear time (lxml comes with that SDK).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from label_studio_sdk._legacy.exceptions import (
    LabelStudioValidationErrorSentryIgnored,
    LabelStudioXMLSyntaxErrorSentryIgnored,
    LSConfigParseException,
)
from label_studio_sdk.label_interface import LabelInterface
from lxml import etree

from plugin_config.errors import LabelingConfigError

OutputKind = Literal["brush", "polygon", "rectangle"]
OUTPUT_KINDS: dict[str, OutputKind] = {
    "BrushLabels": "brush",
    "PolygonLabels": "polygon",
    "RectangleLabels": "rectangle",
}
# What the SDK's parsers raise (lxml's XMLSyntaxError is a SyntaxError). All mean that it is no labeling config.
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

MOST_CHARACTERS = 1_000_000
MOST_TAGS = 12_000
"""Tags of a labeling config: 5,000 labels for each of two controls fit."""
MOST_ATTRIBUTES = 64
"""Attributes of one tag; Label Studio's own tags know fewer."""
MOST_DEPTH = 40
"""Tags inside tags."""
MOST_NAME_CHARACTERS = 512
"""Characters of a tag's name, which the SDK reads again for every label inside it."""
MOST_TEXTS_OF_LABEL = 64
MOST_TEXTS = 20_000
"""Texts of all labels together: each is encoded by the model once per worker."""
MOST_TEXT_CHARACTERS = 1000
"""Characters of a text, of a region's label, and of the names that every label refers to; no model reads more."""

SEGMENTS = ("semantic", "instance", "panoptic")
_SUBJECT = "labeling config"
_EXAMPLE = "See plugin_config/labeling_configs/brush.xml for one that works."


@dataclass(frozen=True)
class Label:
    """One label of one control.

    Attributes:
        key: what regions of the label carry: its `alias`, or its `value` where it has none.
        texts: what to look for: its `prompt` attribute (comma list), or without one its value, its `synonyms` (comma
            list), and the value with its `hint`, which annotators see as a tooltip.
        control: name of the control tag.
        to_name: name of the Image tag that the control draws on.
        image_key: key of the task's data that holds the image's address.
        output: the region type that the control draws.
        stuff: whether all pixels of the label make one region (semantic), or each thing its own (instance). With
            `segments="panoptic"`, the default, its `kind="stuff"` decides (sky, grass); with "semantic" every label is
            stuff, with "instance" none. `segments` is an attribute of the control, or of a label that differs.
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
    """All labels of a labeling config that can be drawn on its (first) image, in the order of the config."""

    labels: tuple[Label, ...]

    @cached_property
    def hash(self) -> str:
        """8 hex digits that change with everything that changes predictions; the order of labels does not."""
        rows = sorted(json.dumps(vars(label), sort_keys=True) for label in self.labels)
        return hashlib.sha256("\n".join(rows).encode()).hexdigest()[:8]

    @cached_property
    def words(self) -> tuple[tuple[str, ...], ...]:
        """The texts of each class. A label that several controls have is one class, drawn by each of them."""
        return tuple(dict.fromkeys(label.texts for label in self.labels))

    @property
    def image_key(self) -> str:
        """Key of the task's data that holds the address of the image."""
        return self.labels[0].image_key


def parse_vocabulary(label_config: str) -> Vocabulary:
    """Parse the vocabulary of a labeling config.

    Args:
        label_config: the project's labeling config, XML.

    Raises:
        LabelingConfigError: not XML, beyond a limit above, no control that draws masks, polygons or boxes on an Image,
            no labels in it, labels that come from the task's data (`value="$labels"`), or `segments` that is none of
            SEGMENTS.
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
        raise LabelingConfigError(_SUBJECT, _nothing_found(interface, dynamic), _EXAMPLE)
    if sum(len(label.texts) for label in labels) > MOST_TEXTS:
        problem = f"has more than {MOST_TEXTS:,} labels, synonyms, hints and prompts"
        raise LabelingConfigError(_SUBJECT, problem, "Take out some, or split the project.")
    first_image = labels[0].to_name
    return Vocabulary(tuple(label for label in labels if label.to_name == first_image))


def check_limits(label_config: str) -> None:
    """Refuse a labeling config that would take long to read.

    Raises:
        LabelingConfigError: too long, too many or too deep tags, too many attributes of one tag, or a DTD. What is no
            XML passes: `parse_vocabulary` says so.
    """
    if len(label_config) > MOST_CHARACTERS:
        raise _beyond_limit(f"is longer than {MOST_CHARACTERS:,} characters", "Shorten it")
    for word in ("<!DOCTYPE", "<!ENTITY"):
        if word in label_config:
            raise _beyond_limit(f"holds {word}", "Write out what it stands for, without a DTD")
    try:
        etree.fromstring(label_config, etree.XMLParser(target=_LimitChecker(), resolve_entities=False, no_network=True))
    except (etree.XMLSyntaxError, ValueError):
        return


class _LimitChecker:
    """Target of lxml's parser that counts tags and builds no tree, so that memory stays small."""

    def __init__(self) -> None:
        self._tags = 0
        self._depth = 0

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        self._tags += 1
        self._depth += 1
        if self._tags > MOST_TAGS:
            raise _beyond_limit(f"has more than {MOST_TAGS:,} tags", "Split the project")
        if self._depth > MOST_DEPTH:
            raise _beyond_limit(f"has tags more than {MOST_DEPTH} deep inside each other", "Take out some of the views")
        if len(attributes) > MOST_ATTRIBUTES:
            problem = f"has more than {MOST_ATTRIBUTES} attributes on one tag, {tag[:60]!r}"
            raise _beyond_limit(problem, "Take out the rest")
        if len(attributes.get("name", "")) > MOST_NAME_CHARACTERS:
            raise _beyond_limit(f"has a name of more than {MOST_NAME_CHARACTERS} characters", "Shorten it")

    def end(self, tag: str) -> None:
        self._depth -= 1

    def close(self) -> None:
        """Called by lxml at the end."""


def _beyond_limit(problem: str, remedy: str) -> LabelingConfigError:
    example = "Label Studio's own tags and plugin_config/labeling_configs/brush.xml show what is enough."
    return LabelingConfigError(_SUBJECT, problem, f"{remedy}. {example}")


def _interface(label_config: str) -> Any:
    if not label_config.strip():
        raise LabelingConfigError(_SUBJECT, "is empty", _EXAMPLE)
    check_limits(label_config)
    try:
        return LabelInterface(label_config)
    except _UNREADABLE as error:
        raise LabelingConfigError(_SUBJECT, f"cannot be read ({str(error)[:300]})", _EXAMPLE) from error


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
    """The texts to look for, each once."""
    prompts = _comma_list(attributes.get("prompt", ""))
    if prompts:
        return tuple(dict.fromkeys(prompts))
    hint = " ".join(attributes.get("hint", "").split()).rstrip(".")
    described = (f"{value}, {hint}",) if hint else ()  # with the value: a hint may be "the furry ones"
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
