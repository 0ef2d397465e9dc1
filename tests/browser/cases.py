"""Every kind of region, on one picture of the drawn world: the labeling config, and the masks that are to be seen."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from plugin_config.vocabulary import Vocabulary, parse_vocabulary
from worker.lab.drawn_world.scenes import Scene, draw_apart
from worker.lab.drawn_world.world import Thing
from worker.label_studio.polygons import LEAST_IOU
from worker.label_studio.regions import decode_region, region_kind
from worker.label_studio.results import encode_segments
from worker.label_studio.shapes import keypoint_mask
from worker.segmentation.segmenter import LabelSegment

Mask = NDArray[np.bool_]

SIZE = (640, 480)
"""Width and height of the picture, in pixels."""

THINGS = (
    Thing("red", "striped", "star"),
    Thing("blue", "plain", "circle"),
    Thing("yellow", "dotted", "heart"),
    Thing("purple", "plain", "ring"),  # with a hole
)
_COLOURS = ("#ff9500", "#00e5ff", "#ff2d95", "#39ff14")
_SEED, _UNIT, _AREA = 18, 240.0, 14_000.0
_CONFIG = '<View><Image name="image" value="$image"/>\n{tags}</View>'


@dataclass(frozen=True)
class Case:
    """A kind of region.

    Attributes:
        name: its name in tables, the file name of its picture.
        tags: the control tags, with `{labels}` where the labels stand, or `{one}` to `{four}` for one of them.
        least: of the intersection over union of what is drawn and what is told, from 0 to 1.
    """

    name: str
    tags: str
    least: float = 0.98

    @property
    def config(self) -> str:
        """The labeling config, with a label for each thing of the picture."""
        rows = [f'<Label value="{thing}" background="{colour}"/>'
                for thing, colour in zip(THINGS, _COLOURS, strict=True)]  # fmt: skip
        each = dict(zip(("one", "two", "three", "four"), rows, strict=True))
        return _CONFIG.format(tags=self.tags.format(labels="".join(rows), **each))

    @property
    def vocabulary(self) -> Vocabulary:
        """The labels of the config."""
        return parse_vocabulary(self.config)


def _own(tag: str) -> str:
    return f'<{tag} name="control" toName="image">{{labels}}</{tag}>'


def _pair(tag: str) -> str:
    return f'<Labels name="label" toName="image">{{labels}}</Labels><{tag} name="control" toName="image"/>'


CASES = (
    Case("BrushLabels", _own("BrushLabels")),
    Case("BitmaskLabels", _own("BitmaskLabels")),
    Case("PolygonLabels", _own("PolygonLabels"), least=LEAST_IOU),
    Case("VectorLabels", _own("VectorLabels").replace("toName", 'closable="true" toName'), least=LEAST_IOU),
    Case("RectangleLabels", _own("RectangleLabels")),
    Case("EllipseLabels", _own("EllipseLabels")),
    Case("KeyPointLabels", _own("KeyPointLabels"), least=0.70),
    Case("Labels + Brush", _pair("Brush")),
    Case("Labels + Polygon", _pair("Polygon"), least=LEAST_IOU),
    Case("Labels + Rectangle", _pair("Rectangle")),
    Case("Labels + Ellipse", _pair("Ellipse")),
)
"""All kinds whose regions lie on an image. Polygons have few points and promise LEAST_IOU. The disc of a keypoint keeps
its size while the picture is zoomed."""

MIXED = Case("three kinds", "\n".join(
    f'<{tag} name="{name}" toName="image">{{{label}}}</{tag}>'
    for tag, name, label in (("BrushLabels", "brush", "one"), ("PolygonLabels", "polygon", "two"),
                             ("RectangleLabels", "box", "three"))
))  # fmt: skip
"""A brush, a polygon and a rectangle in one task: what every run of the tests looks at."""

_KEEPS_MASK = ("brush", "bitmask", "polygon", "vector")


@cache
def scene() -> Scene:
    """The picture and its truth."""
    return draw_apart(np.random.default_rng(_SEED), SIZE[::-1], THINGS, unit=_UNIT, area=_AREA)


def picture() -> bytes:
    """The picture as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(scene().image).save(buffer, "PNG")
    return buffer.getvalue()


def masks() -> tuple[Mask, ...]:
    """(H, W) of each of THINGS."""
    return tuple(scene().instances == number for number in range(1, len(THINGS) + 1))


@dataclass(frozen=True)
class Told:
    """What is to be seen of one thing.

    Attributes:
        mask: (H, W) of it.
        regions: the items of the result that say so.
        against: "mask" where the regions are to keep the thing's mask; "shape" where they say less (a box, a point),
            and `mask` is what they say, by our own reader.
    """

    mask: Mask
    regions: list[dict[str, Any]]
    against: str


def results(case: Case) -> list[Told]:
    """What is to be seen of each thing that has a label, as a worker writes it."""
    found = []
    for label in case.vocabulary.labels:
        mask = masks()[[str(thing) for thing in THINGS].index(label.key)]
        regions = encode_segments([LabelSegment(label, mask, 0.9, raw_score=0.8)], size=SIZE[::-1]).regions
        keeps = label.output in _KEEPS_MASK
        found.append(Told(mask if keeps else shape_of(regions), regions, "mask" if keeps else "shape"))
    return found


def shape_of(regions: list[dict[str, Any]]) -> Mask:
    """(H, W) of what the regions of one thing say, by our own reader."""
    drawn: Mask = np.any([read(region) for region in regions if region["type"] != "labels"], axis=0)
    return drawn


def read(region: Mapping[str, Any]) -> Mask:
    """(H, W) of what a region says; of a point, which tells no area, the disc that the editor shows."""
    if region_kind(region) == "keypoint":
        return keypoint_mask(region, height=SIZE[1], width=SIZE[0])
    return decode_region(region, *SIZE)
