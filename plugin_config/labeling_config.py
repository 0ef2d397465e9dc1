"""The XML of a labeling config -> its tags, as Label Studio's editor reads them.

The editor reads tags and attributes in any case, and the text in a tag before its attribute `value`. label-studio-sdk
does neither, keeps the last of two equal labels where the editor takes the first, and takes time quadratic in the
attributes of a tag, all while it holds Python's lock. So the config is read here with libxml2, in linear time (lxml
comes with that SDK), and the limits below are checked meanwhile: a large config stops nothing else in the process.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from xml.sax.saxutils import escape

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
"""Characters of a tag's name."""

SUBJECT = "labeling config"
EXAMPLE = "See plugin_config/labeling_configs/brush.xml for one that works."
_WRITTEN_TEXT = frozenset({"hypertext", "style"})  # what stands in these is shown, and is no tag of the config


@dataclass(frozen=True, eq=False)
class Tag:
    """A tag of a labeling config, equal to itself alone.

    Attributes:
        kind: its name in lower case, "brushlabels"; with a colon where it is of another namespace.
        written: its name as the config writes it.
        attributes: by their names in lower case; of two that differ by case alone, the later one.
        text: what is written in it, where no tag is; without white space around it.
        children: the tags in it, in order.
    """

    kind: str
    written: str
    attributes: Mapping[str, str]
    text: str
    children: tuple[Tag, ...]

    @property
    def name(self) -> str:
        """What other tags and regions call it; "" = it has no name."""
        return self.attributes.get("name", "")

    @property
    def value(self) -> str:
        """Its text as the editor takes it, `&` still written `&amp;`; without one its attribute `value`."""
        return escape(self.text) if self.text else self.attributes.get("value", "")

    @property
    def title(self) -> str:
        """How messages call it."""
        return f"{self.written[:40]} {self.name[:60]!r}" if self.name else f"{self.written[:40]} without a name"


def refusal(subject: str, problem: str, remedy: str) -> LabelingConfigError:
    """An error about a labeling config, with the example that works."""
    return LabelingConfigError(subject, problem, f"{remedy} {EXAMPLE}".strip())


def read_config(label_config: str) -> Tag:
    """Read the tags of a labeling config.

    Args:
        label_config: XML.

    Returns:
        its root.

    Raises:
        LabelingConfigError: it is empty, no XML, too long, has too many or too deep tags, too many attributes of one
            tag, or a DTD.
    """
    if not label_config.strip():
        raise refusal(SUBJECT, "is empty", "")
    if len(label_config) > MOST_CHARACTERS:
        raise _beyond_limit(f"is longer than {MOST_CHARACTERS:,} characters", "Shorten it")
    for word in ("<!DOCTYPE", "<!ENTITY"):
        if word in label_config:
            raise _beyond_limit(f"holds {word}", "Write out what it stands for, without a DTD")
    builder = _Builder()
    parser = etree.XMLParser(target=builder, resolve_entities="internal", no_network=True, encoding="utf-8")
    try:
        # as bytes, and of the encoding that they are in, whatever an XML declaration says
        etree.fromstring(label_config.encode(), parser)
    except (etree.XMLSyntaxError, ValueError) as error:
        raise refusal(SUBJECT, f"cannot be read ({' '.join(str(error).split())[:300]})", "") from error
    for entry in parser.error_log:  # of prefixes that are not declared, over which a parser with a target reads on
        raise refusal(SUBJECT, f"cannot be read ({' '.join(entry.message.split())[:300]}, line {entry.line})", "")
    return builder.root()


@dataclass
class _Open:
    """A tag whose end was not read yet."""

    written: str
    attributes: dict[str, str]
    children: list[Tag] = field(default_factory=list)
    text: list[str] = field(default_factory=list)


class _Builder:
    """Target of lxml's parser that checks the limits while it builds the tags, so that memory stays small."""

    def __init__(self) -> None:
        self._tags = 0
        self._open: list[_Open] = []
        self._root: Tag | None = None
        self._defaults = {""}  # namespaces that tags without a prefix are in

    def start(self, tag: str, attributes: Mapping[str, str], namespaces: Mapping[str, str]) -> None:
        self._tags += 1
        if self._tags > MOST_TAGS:
            raise _beyond_limit(f"has more than {MOST_TAGS:,} tags", "Split the project")
        if len(self._open) == MOST_DEPTH:
            raise _beyond_limit(f"has tags more than {MOST_DEPTH} deep inside each other", "Take out some of the views")
        if len(attributes) > MOST_ATTRIBUTES:
            problem = f"has more than {MOST_ATTRIBUTES} attributes on one tag, {tag[:60]!r}"
            raise _beyond_limit(problem, "Take out the rest")
        self._defaults.update(uri for prefix, uri in namespaces.items() if not prefix)
        found = {name.lower(): value for name, value in attributes.items()}
        if len(found.get("name", "")) > MOST_NAME_CHARACTERS:
            raise _beyond_limit(f"has a name of more than {MOST_NAME_CHARACTERS} characters", "Shorten it")
        namespace, _, local = tag.removeprefix("{").rpartition("}")
        self._open.append(_Open(local if namespace in self._defaults else f"xml:{local}", found))

    def data(self, text: str) -> None:
        if self._open:
            self._open[-1].text.append(text)

    def end(self, _: str) -> None:
        closed = self._open.pop()
        kind = closed.written.lower()
        if kind in _WRITTEN_TEXT:
            closed.children = []
        text = "" if closed.children else "".join(closed.text).strip()
        tag = Tag(kind, closed.written, closed.attributes, text, tuple(closed.children))
        if self._open:
            self._open[-1].children.append(tag)
        else:
            self._root = tag

    def close(self) -> None:
        """Called by lxml at the end."""

    def root(self) -> Tag:
        """The tag that holds all others."""
        if self._root is None:
            raise refusal(SUBJECT, "cannot be read (it has no tag)", "")
        return self._root


def _beyond_limit(problem: str, remedy: str) -> LabelingConfigError:
    example = "Label Studio's own tags and plugin_config/labeling_configs/brush.xml show what is enough."
    return LabelingConfigError(SUBJECT, problem, f"{remedy}. {example}")
