"""Odd labeling configs, through `parse_vocabulary`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from xml.sax.saxutils import escape, quoteattr

from hypothesis import strategies as st
from lxml import etree

from plugin_config.control_tags import SHAPE_TAGS
from plugin_config.errors import LabelingConfigError, TaskDataError
from plugin_config.vocabulary import OUTPUT_KINDS, Label, Vocabulary, parse_vocabulary
from tests.fuzz.trial import own_memory_mb
from tests.fuzz.verdicts import ROOT, TAKEN, Kind, Verdict, judge_error, pick

SUBJECTS = ("labeling config", "label ", "labels ", "control ", "image ", "tag ", "Repeater", "Image ",
            *(f"{tag} " for tag in (*OUTPUT_KINDS, *SHAPE_TAGS, "Labels", "Choices")))  # fmt: skip
_CANARY_EVERY = 25
_DECLARATION = re.compile(r"\A\s*<\?xml[^>]*\?>")  # of a text, which has no encoding any more
_DRAWING = {tag.lower() for tag in OUTPUT_KINDS}
_EXAMPLES = sorted((ROOT / "plugin_config" / "labeling_configs").glob("*.xml"))


@dataclass(frozen=True)
class Tag:
    """A tag as it is written: of attributes of one name the last counts, and `before` is written as it is."""

    name: str
    attributes: tuple[tuple[str, str], ...] = ()
    children: tuple[Tag, ...] = ()
    before: str = ""


@dataclass(frozen=True)
class Change:
    """One change of a tree of tags: of the tag `at` (of all, by number), in [0, 1)."""

    kind: str
    at: float
    name: str = ""
    text: str = ""
    other: float = 0.0


@dataclass(frozen=True)
class Config:
    """A labeling config: a valid one, changes of its tags, and then of its text."""

    base: int
    changes: tuple[Change, ...]
    prefix: str = ""
    cut: float | None = None
    inserted: tuple[float, str] | None = None


def _labels(*names: str, **attributes: str) -> tuple[Tag, ...]:
    return tuple(Tag("Label", (("value", name), *attributes.items())) for name in names)


def _view(*tags: Tag) -> Tag:
    return Tag("View", (), tags)


def _image(name: str = "image", value: str = "$image", **more: str) -> Tag:
    return Tag("Image", (("name", name), ("value", value), *more.items()))


def _control(kind: str, *children: Tag, name: str = "", to: str = "image", **more: str) -> Tag:
    return Tag(kind, (("name", name or kind.lower()), ("toName", to), *more.items()), children)


_CHOICE = _control("Choices", Tag("Choice", (("value", "good"),)), perRegion="true")
BASES: tuple[Tag, ...] = (
    _view(_image(), _control("BrushLabels", *_labels("cat", "dog"))),
    _view(_image(), _control("RectangleLabels", *_labels("cat"), name="r"),
          _control("PolygonLabels", *_labels("dog"), name="p"), _CHOICE),
    _view(Tag("Header", (("value", "Label it"),)), Tag("View", (("style", "display: flex"),), (
        _image("page", "$data.pages[0].url", zoom="true"), _control("BrushLabels", *_labels("sky", kind="stuff"),
                                                                   *_labels("red car"), to="page")))),
    _view(_image("a", "$a"), _image("b", "$b"), _control("BrushLabels", *_labels("cat"), to="a", name="x"),
          _control("BrushLabels", *_labels("dog"), to="b", name="y")),
    _view(_image(), _control("BrushLabels", *_labels("cat", "dog"), name="b"),
          _control("KeyPointLabels", *_labels("cat", "dog"), smart="true"),
          _control("RectangleLabels", *_labels("cat", "dog"), smart="true"), _control("EllipseLabels",
                                                                                      *_labels("cat"))),
    _view(_image(value="/data/upload/1/$file"), _control("PolygonLabels", *_labels("a", alias="one"),
                                                         *_labels("b", alias="two", hint="the second"))),
    _view(_image(), _control("BrushLabels", *_labels("cat", synonyms="kitten, tom", prompt="a cat, a kitten"),
                             segments="instance"), Tag("Style", (), (), ".x{color:red}")),
    _view(_image(), Tag("Labels", (("name", "l"), ("toName", "image")), _labels("cat")),
          Tag("Brush", (("name", "br"), ("toName", "image"))), _control("BrushLabels", *_labels("dog"))),
    _view(Tag("Image", (("name", "image"), ("valueList", "$pages"))), _control("RectangleLabels",
                                                                               *_labels("cat", "dog"))),
    _view(Tag("Repeater", (("on", "$document"), ("indexFlag", "{{idx}}")), (
        _image("page_{{idx}}", "$document[{{idx}}].page"),
        _control("BrushLabels", *_labels("cat", "dog"), name="labels_{{idx}}", to="page_{{idx}}")))),
    _view(_image(), _control("BrushLabels", value="$labels")),
    _view(_image("a", "$a"), _image("b", "$b"), _control("BrushLabels", *_labels("cat"), to="a,b", min_area="2%"),
          _control("Choices", Tag("Choice", (("value", "good"),)), to="b", name="q")),
)  # fmt: skip
_DATA = {"pages": ["/a.png", "/b.png"], "document": [{"page": "/a.png"}, {}], "labels": ["cat", {"value": "dog"}, ""],
         "image": "/a.png", "a": "/a.png", "b": None}  # fmt: skip


def base_of(config: Config) -> Tag:
    """The valid config that a case begins with."""
    return BASES[config.base]


def _tags(root: Tag) -> list[Tag]:
    return [root, *(inner for child in root.children for inner in _tags(child))]


def _changed(root: Tag, change: Change) -> Tag:
    """Change one tag of the tree, found by its number."""
    every = _tags(root)
    target = every[int(change.at * len(every))]
    return _replaced(root, target, _of(target, change, every))


def _replaced(root: Tag, target: Tag, by: tuple[Tag, ...]) -> Tag:
    if root is target:
        return by[0] if by else Tag("View")
    children: list[Tag] = []
    for child in root.children:
        children += by if child is target else (_replaced(child, target, by),)
    return replace(root, children=tuple(children))


def _of(tag: Tag, change: Change, every: list[Tag]) -> tuple[Tag, ...]:
    number = int(change.other * max(1, len(tag.attributes)))
    kept = tag.attributes[:number] + tag.attributes[number + 1 :]
    old = tag.attributes[number] if tag.attributes else ("value", "")
    match change.kind:
        case "rename tag":
            return (replace(tag, name=change.name),)
        case "case":
            cases = (str.lower, str.upper, str.swapcase, str.title)
            return (replace(tag, name=cases[int(change.other * 4)](tag.name)),)
        case "drop attribute":
            return (replace(tag, attributes=kept),)
        case "set attribute":
            return (replace(tag, attributes=(*kept, (old[0], change.text))),)
        case "rename attribute":
            return (replace(tag, attributes=(*kept, (change.name, old[1]))),)
        case "add attribute":
            return (replace(tag, attributes=(*tag.attributes, (change.name, change.text))),)
        case "drop":
            return ()
        case "twice":
            return (tag, tag)
        case "unwrap":
            return tag.children
        case "wrap":
            return (Tag(change.name, (("on", "$pages"), ("indexFlag", "{{idx}}")), (tag,)),)
        case "move":
            return (replace(tag, children=(*tag.children, every[int(change.other * len(every))])),)
        case "many":
            names = (f"{change.text} {count}" for count in range(2 + int(change.other * 60)))
            return (tag, *(Tag("Label", (("value", name),)) for name in names))
    return (replace(tag, before=change.text),)


def written(config: Config) -> str:
    """The labeling config as text."""
    root = base_of(config)
    for change in config.changes:
        root = _changed(root, change)
    text = _written(root)
    if config.inserted is not None:
        at = int(config.inserted[0] * len(text))
        text = text[:at] + config.inserted[1] + text[at:]
    if config.cut is not None:
        text = text[: int(config.cut * len(text))]
    return config.prefix + text


def _written(tag: Tag) -> str:
    attributes = "".join(f" {name}={quoteattr(value)}" for name, value in dict(tag.attributes).items())
    return f"{tag.before}<{tag.name}{attributes}>{''.join(map(_written, tag.children))}</{tag.name}>"


_TAGS = ["View", "Image", "BrushLabels", "PolygonLabels", "RectangleLabels", "EllipseLabels", "KeyPointLabels", "Label",
         "Choices", "Choice", "Labels", "Brush", "Repeater", "HyperText", "Text", "Video", "Relations", "VectorLabels",
         "BitmaskLabels", "Taxonomy", "Style", "Collapse", "Panel", "Filter", "x:Image", "Imàge", "ls:View",
         "Paragraphs",
         "brushlabels", "IMAGE", "Ranker", "MagicWand", "TextArea", "Pairwise", "Chat"]  # fmt: skip
_ATTRIBUTES = ["value", "name", "toName", "alias", "valueList", "valuelist", "smart", "smartOnly", "hint", "prompt",
               "synonyms", "segments", "kind", "html", "background", "hotkey", "selected", "choice", "visibleWhen",
               "whenTagName", "perRegion", "required", "opacity", "predicted_values", "granularity", "toname", "VALUE",
               "maxUsages", "showInline", "apiUrl", "xml:lang", "xmlns", "xmlns:x", "id", "on", "indexFlag",
               "mode", "model_skip", "skip", "min_area", "model_score_threshold", "negative", "output"]  # fmt: skip
_TEXTS = ["", " ", "  cat ", "$image", "$labels", "$", "$$", "$a.b.c", "$a[0]", "$a[0].b[1]", "$a[-1]", "$a[x]",
          "$ image",
          "{{idx}}", "$pages[{{idx}}].url", "image_{{idx}}", "a,b", "image,other", "/data/$file.png", "https://h/$a/$b",
          "true", "false", "TRUE", "semantic", "instance", "panoptic", "Panoptic ", "stuff", "thing", "cat", "dog",
          "cat,dog",
          "image", "b", "page", "é", "猫", "\u202ecat", "\u00a0", "cat\u200b", "a" * 600, "w" * 1100, "1", "-1", "null",
          "<b>cat</b>", "&amp;", "&", "'\"", "\ud800", "\x00", "\x0b", "\ufffe", "\U0001f408", "cat\ndog", "\t", "%s",
          "{}",
          "0.5", "5%", "polygon",
          "__proto__", "constructor", "ß", "İ", "CAT", "Cat", ",".join(f"w{n}" for n in range(80))]  # fmt: skip
_RAW = ["<!-- a comment -->", "<!-- -- -->", "<![CDATA[cat]]>", "<?pi x?>", "&nbsp;", "&#0;", "&#xD800;", "&lt;",
        "&eacute;",
        "some text", "<", ">", "&", "]]>", "<br/>", "</View>", "<View>", "\x00", "\ud800", "é", "\ufeff",
        "<!DOCTYPE x>",
        '<Image name="image" value="$image"/>', '<Label value="cat"/>', '<Label/>', "<Label value='x' value='y'/>",
        '<Image name="two" value="$two"/>', "<View " + 'a="1" ' * 70 + "/>", "<View>" * 50]  # fmt: skip
_PREFIXES = ["", "", "", "", "\ufeff", " \n", '<?xml version="1.0"?>', '<?xml version="1.0" encoding="utf-16"?>',
             '<?xml version="1.0" encoding="latin-1"?>', '<?xml version="9.9"?>', "<!-- x -->",
             '<!DOCTYPE View [<!ENTITY a "b">]>', "<View/>", "text", "\x00"]  # fmt: skip
_UNIT = st.floats(0, 0.999)
_TEXT = st.one_of(
    pick(_TEXTS), st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=12), st.text(max_size=4)
)
_KINDS = ["rename tag", "case", "drop attribute", "set attribute", "set attribute", "rename attribute", "add attribute",
          "add attribute", "drop", "twice", "unwrap", "wrap", "move", "many", "before"]  # fmt: skip


def _change(kind: str) -> st.SearchStrategy[Change]:
    names = st.sampled_from(_ATTRIBUTES if "attribute" in kind else _TAGS)
    text = pick(_RAW) if kind == "before" else _TEXT
    return st.builds(Change, st.just(kind), _UNIT, names, text, _UNIT)


_BASE = st.integers(0, len(BASES) - 1)
_CHANGES = st.lists(st.one_of(list(map(_change, _KINDS))), max_size=4).map(tuple)
CASES = st.one_of(
    st.builds(Config, _BASE, _CHANGES),
    st.builds(Config, _BASE, _CHANGES),
    st.builds(
        Config, _BASE, _CHANGES, pick(_PREFIXES), st.one_of(st.none(), _UNIT),
        st.one_of(st.none(), st.tuples(_UNIT, pick([*_RAW, *_TEXTS]))),
    ),
)  # fmt: skip


class ConfigJudge:
    """Silent: a config that is accepted though it cannot be read as XML; whose image, control or label is none that the
    config has; whose images in a Repeater would share a name; or of which a label that could be drawn is missing from
    the vocabulary. Refused: a valid config, unchanged. Harmed: a valid config between them is read differently; also a
    hash that differs between two readings.
    """

    def __init__(self) -> None:
        self._healthy = [path.read_text(encoding="utf-8") for path in _EXAMPLES]
        self._right = [parse_vocabulary(text).hash for text in self._healthy]
        self._tried = 0

    def memory_mb(self) -> float:
        return own_memory_mb()

    def __call__(self, case: Config) -> Verdict:
        self._tried += 1
        if self._tried % _CANARY_EVERY == 0 and [parse_vocabulary(text).hash for text in self._healthy] != self._right:
            return Verdict("harmed", "a valid config is read differently now", "healthy config")
        text = written(case)
        try:
            vocabulary = parse_vocabulary(text)
        except LabelingConfigError as error:
            return self._judge_refusal(case, text, error)
        if vocabulary.hash != parse_vocabulary(text).hash:
            return Verdict("harmed", "its hash differs between two readings", "hash")
        try:
            vocabulary.for_task(1, _DATA)
        except TaskDataError as error:
            told = judge_error(error, "task 1")
            if told.fate != "told":
                return told
        return judge_vocabulary(vocabulary, text)

    def _judge_refusal(self, case: Config, text: str, error: LabelingConfigError) -> Verdict:
        unchanged = text == _written(base_of(case))
        if unchanged:
            return Verdict("refused", str(error)[:300], "a valid config")
        return judge_error(error, *SUBJECTS)


def judge_vocabulary(vocabulary: Vocabulary, text: str) -> Verdict:
    """Compare a vocabulary with the config's own tags, read without the product, as the editor reads them: names of
    tags and attributes in any case.
    """
    try:
        root = etree.fromstring(_DECLARATION.sub("", text), etree.XMLParser(resolve_entities=False, no_network=True))
    except (etree.XMLSyntaxError, ValueError) as error:
        return Verdict("silent", f"accepted though it is no XML ({error})"[:300], "no XML")
    tags = [tag for tag in root.iter() if isinstance(tag.tag, str)]
    for tag in tags:
        if tag.prefix is None:  # `xmlns="..."` changes no name
            tag.tag = etree.QName(tag).localname
    images = {_attribute(tag, "name"): tag for tag in tags if tag.tag.lower() == "image"}
    if not vocabulary.labels and not vocabulary.choices and not vocabulary.asked:
        return Verdict("silent", "accepted without any label", "no label")
    for label in vocabulary.labels:
        problem = _problem(label, images, tags)
        if problem:
            return Verdict("silent", f"{problem}: {label}"[:400], problem)
    keys = [(label.control, label.to_name, label.key) for label in vocabulary.labels]
    if len(set(keys)) < len(keys):
        return Verdict("silent", f"two labels of one control have one key: {keys}"[:300], "one key twice")
    for name in {image.name for image in vocabulary.images}:
        image = images[name]
        if not (_attribute(image, "value") or _attribute(image, "valuelist") or _text(image)).strip():
            return Verdict("silent", f"the image has no value: {dict(image.attrib)}"[:300], "no value of the image")
        around = [tag for tag in tags if tag.tag.lower() == "repeater" and image in tag.iter()]
        if any((_attribute(tag, "indexflag") or "{{idx}}") not in name for tag in around):
            return Verdict("silent", "images in a Repeater share a name", "Repeater")
    return _missing(vocabulary, [tag for tag in tags if tag.tag.lower() in _DRAWING]) or TAKEN


def _attribute(tag: etree._Element, name: str) -> str:
    return next((str(value) for key, value in tag.attrib.items() if str(key).lower() == name), "")


def _problem(label: Label, images: dict[str, etree._Element], tags: list[etree._Element]) -> str:
    if label.to_name not in images:
        return "its image is no Image tag"
    mine = [tag for tag in tags if _attribute(tag, "name") == label.control]
    if not mine:
        return "its control is none that the config has"
    if not any(label.to_name in _names(tag) or not _attribute(tag, "toname") for tag in mine):
        return "its control is not of its image"
    kinds = {kind.lower(): output for kind, output in (OUTPUT_KINDS | SHAPE_TAGS).items()}
    drawing = [tag for tag in tags if _attribute(tag, "name") == label.shape] if label.shape else mine
    if label.draws and not any(kinds.get(tag.tag.lower()) == label.output for tag in drawing):
        return "its control draws otherwise"
    inner = [child for tag in mine for child in tag.iter() if isinstance(child.tag, str)]
    if not any(label.key in (_attribute(child, "alias"), _attribute(child, "value"), _text(child)) for child in inner):
        return "its key is of no label of its control"
    if not label.key.strip() or not label.texts or not all(text.strip() for text in label.texts):
        return "it has nothing to look for"
    return ""


def _text(tag: etree._Element) -> str:
    """What is written in a tag, as the editor takes it for the label's value."""
    return escape("".join([tag.text or "", *(child.tail or "" for child in tag)]).strip())


def _missing(vocabulary: Vocabulary, controls: list[etree._Element]) -> Verdict | None:
    """A label of a control that draws on the image, and is no prompt (`smart`), which the vocabulary lacks: neither its
    key nor its words are there, for this control or another, and no remark names it or its control.
    """
    there = {name.strip() for label in vocabulary.labels for name in (label.key, *label.texts)}
    remarks = " ".join(getattr(vocabulary, "remarks", ()))
    served = {image.name for image in vocabulary.images}
    for control in controls:
        if not served & set(_names(control)) or _attribute(control, "smart").strip().lower() == "true":
            continue
        if control.tag.lower() in remarks.lower():
            continue
        for child in control:
            if not isinstance(child.tag, str) or child.tag.lower() != "label":
                continue
            value, alias = _attribute(child, "value").strip(), _attribute(child, "alias").strip()
            if value and not value.startswith("$") and not {value, alias} & there and value[:20] not in remarks:
                told = f"label {value!r} of {_attribute(control, 'name')!r} is left out"
                return Verdict("silent", told, "label left out")
    return None


def _names(control: etree._Element) -> list[str]:
    return [name.strip() for name in _attribute(control, "toname").split(",")]


@contextmanager
def judge() -> Iterator[ConfigJudge]:
    yield ConfigJudge()


def show(case: Config) -> str:
    """The labeling config."""
    return ascii(written(case))


KIND = Kind("labeling configs", CASES, "tests.fuzz.configs:judge", show, most_s=3.0, most_growth_mb=60.0, full=2500,
            short=160)  # fmt: skip
