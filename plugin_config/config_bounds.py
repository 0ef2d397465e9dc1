"""A labeling config's size and shape, checked in time that grows with its length before anything else reads it.

label-studio-sdk copies the attributes of a tag in time that grows with their square, and climbs from every label to the
root, holding Python's lock: everything else in the process stands still. libxml2 itself reads in linear time (lxml
comes with that SDK). It must not know what tags mean.
"""

from __future__ import annotations

from collections.abc import Mapping

from lxml import etree

from plugin_config.errors import LabelingConfigError

MOST_CHARACTERS = 1_000_000
MOST_TAGS = 12_000
"""Tags of a labeling config: 5,000 labels for each of two controls fit."""

MOST_ATTRIBUTES = 64
"""Attributes of one tag; Label Studio's own tags know fewer."""

MOST_DEPTH = 40
"""Tags inside tags."""

MOST_NAME_CHARACTERS = 512
"""Of a tag's name, which is looked at again for every label inside it."""


def check_bounds(label_config: str) -> None:
    """Refuse a labeling config that would take long to read.

    Raises:
        LabelingConfigError: too long, too many or too deep tags, too many attributes of one tag, or a DTD. What is no
            XML at all passes: whoever reads it says so.
    """
    if len(label_config) > MOST_CHARACTERS:
        raise _refused(f"is longer than {MOST_CHARACTERS:,} characters", "Shorten it")
    for word in ("<!DOCTYPE", "<!ENTITY"):
        if word in label_config:
            raise _refused(f"holds {word}", "Write out what it stands for, without a DTD")
    try:
        etree.fromstring(label_config, etree.XMLParser(target=_Shape(), resolve_entities=False, no_network=True))
    except (etree.XMLSyntaxError, ValueError):  # the reader tells it in its own words
        return


class _Shape:
    """What lxml tells as it reads: nothing is built, so that nothing is held."""

    def __init__(self) -> None:
        self._tags = 0
        self._depth = 0

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        self._tags += 1
        self._depth += 1
        if self._tags > MOST_TAGS:
            raise _refused(f"has more than {MOST_TAGS:,} tags", "Split the project")
        if self._depth > MOST_DEPTH:
            raise _refused(f"has tags more than {MOST_DEPTH} deep inside each other", "Take out some of the views")
        if len(attributes) > MOST_ATTRIBUTES:
            raise _refused(f"has more than {MOST_ATTRIBUTES} attributes on one tag, {tag[:60]!r}", "Take out the rest")
        if len(attributes.get("name", "")) > MOST_NAME_CHARACTERS:
            raise _refused(f"has a name of more than {MOST_NAME_CHARACTERS} characters", "Shorten it")

    def end(self, tag: str) -> None:
        self._depth -= 1

    def close(self) -> None:
        """Called by lxml at the end."""


def _refused(problem: str, remedy: str) -> LabelingConfigError:
    example = "Label Studio's own tags and plugin_config/labeling_configs/brush.xml show what is enough."
    return LabelingConfigError("labeling config", problem, f"{remedy}. {example}")
