"""What a vocabulary is made of: labels, choices, images, and the rows of these that versions are made of."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields

from plugin_config.control_tags import OutputKind


@dataclass(frozen=True)
class Label:
    """One label of one control.

    Attributes:
        key: what regions of the label carry: its `alias`, or its `value` where it has none.
        texts: what to look for: its `prompt` attribute (comma list), or without one its value, its `synonyms` (comma
            list), and the value with its `hint`, which annotators see as a tooltip.
        control: name of the control tag.
        to_name: name of the Image tag that the control draws on.
        image_value: the Image tag's `value`: an address with variables (`$image`) that the task's data fills in; or its
            `valueList`, a variable that has a list of addresses.
        output: the region type that predictions of the label are drawn as.
        stuff: whether all pixels of the label make one region (semantic), or each thing its own (instance). With
            `segments="panoptic"`, the default, its `kind="stuff"` decides (sky, grass); with "semantic" every label is
            stuff, with "instance" none. `segments` is an attribute of the control, or of a label that differs.
        draws: whether its control draws the predictions. Of several controls with a label one does; regions that
            annotators draw with the others are read as the same label.
        shape: name of the tag that draws the regions of a Labels control (Brush, Polygon and so on), which has no
            labels; "" = the control does.
        image_list: whether `image_value` is a `valueList`.
        least_score: regions of a lower score are left out; None = the setting ZEROMASK_LEAST_SCORE.
        least_pixels: regions of a smaller area are left out, pixels of the image as it is stored.
        least_share: regions of a smaller area are left out, as a share of the image's.
        negatives: words that are rivals of the labels: what looks more like them is background.
        skip: whether nothing is predicted for the label because it is for annotators alone. It is looked for
            nevertheless, as a rival of the others, and learned.
    """

    key: str
    texts: tuple[str, ...]
    control: str
    to_name: str
    image_value: str
    output: OutputKind
    stuff: bool = False
    draws: bool = True
    shape: str = ""
    image_list: bool = False
    least_score: float | None = None
    least_pixels: float = 0.0
    least_share: float = 0.0
    negatives: tuple[str, ...] = ()
    skip: bool = False


@dataclass(frozen=True)
class Choice:
    """One choice of a Choices control.

    Attributes:
        key: what the answer carries: its `alias`, or its `value` where it has none.
        texts: what to look for; see `Label`.
    """

    key: str
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Choices:
    """A question about the image as a whole.

    Attributes:
        control: name of the Choices tag.
        to_name: name of the Image tag that it is about.
        image_value: the Image tag's `value` or `valueList`; see `Label`.
        multiple: whether several may be chosen.
        choices: what can be chosen, one or more, in the order of the config.
        image_list: whether `image_value` is a `valueList`.
    """

    control: str
    to_name: str
    image_value: str
    multiple: bool
    choices: tuple[Choice, ...]
    image_list: bool = False


@dataclass(frozen=True)
class ImageTag:
    """An Image of a labeling config: its name, and its `value`, or its `valueList` where that is a list."""

    name: str
    value: str
    is_list: bool


@dataclass(frozen=True)
class AskedLabels:
    """A control that has labels from the data of each task (`value="$labels"`).

    Attributes:
        variable: that has them, without its `$`.
        control: name of the control.
        to_name: name of the Image tag that it labels.
        image_value: the Image tag's `value` or `valueList`; see `Label`.
        output: the region type, or "choices".
        options: attributes of the control that change predictions, with their values.
    """

    variable: str
    control: str
    to_name: str
    image_value: str
    output: str
    options: tuple[tuple[str, str], ...]


def label_row(label: Label) -> dict[str, object]:
    """A label as versions were made of it when the image's value could only be `$` and a key."""
    row = asdict(label)
    del row["draws"]
    for later in _LATER_FIELDS:  # labels without these had their versions before there were these
        if row[later.name] == later.default:
            del row[later.name]
    value = row.pop("image_value")
    row["image_key"] = value[1:] if value.startswith("$") else f"${value}"
    return row


def choices_row(choices: Choices) -> dict[str, object]:
    """A question as versions were made of it before images could be lists."""
    row = asdict(choices)
    if not choices.image_list:
        del row["image_list"]
    return row


_LATER_FIELDS = fields(Label)[8:]
