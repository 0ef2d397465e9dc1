"""Items of annotations as Label Studio stores and imports them, over one picture of 48 x 32 pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from plugin_config.vocabulary import parse_vocabulary
from worker.label_studio.brush_rle import encode_rle

HEIGHT, WIDTH = 32, 48
CONFIG = """<View><Image name="image" value="$image"/><Image name="other" value="$image"/>
  <Text name="words" value="$image"/>
  <BrushLabels name="b" toName="image"><Label value="cat"/><Label value="dog"/></BrushLabels>
  <PolygonLabels name="p" toName="image"><Label value="cat"/></PolygonLabels>
  <RectangleLabels name="r" toName="image"><Label value="cat"/></RectangleLabels>
  <EllipseLabels name="e" toName="image"><Label value="cat"/><Label value="bird"/></EllipseLabels>
  <KeyPointLabels name="k" toName="image"><Label value="cat"/></KeyPointLabels>
  <VectorLabels name="v" toName="image"><Label value="cat"/></VectorLabels>
  <Labels name="l" toName="image"><Label value="cat"/><Label value="dog"/></Labels>
  <Brush name="lb" toName="image"/><Rectangle name="lr" toName="image"/>
  <Choices name="q" toName="image" perRegion="true"><Choice value="good"/><Choice value="cat"/></Choices></View>"""
VOCABULARY = parse_vocabulary(CONFIG)
CAT, DOG = 0, 1

CONTROLS = {
    "brushlabels": "b", "polygonlabels": "p", "rectanglelabels": "r", "ellipselabels": "e", "keypointlabels": "k",
    "vectorlabels": "v", "labels": "l", "brush": "lb", "rectangle": "lr", "choices": "q",
}  # fmt: skip
BOX = {"x": 25, "y": 25, "width": 50, "height": 50, "rotation": 0}
RING = [[25, 25], [75, 25], [75, 75], [25, 75]]


def item(kind: str, value: Any, *labels: str, **more: Any) -> dict[str, Any]:
    """A region by the control of its type; `labels` stand under the key of its type, where there are any."""
    named = {kind: list(labels)} if labels else {}
    return {
        "id": "x1", "from_name": CONTROLS.get(kind, "q"), "to_name": "image", "type": kind, "original_width": WIDTH,
        "original_height": HEIGHT, "image_rotation": 0, "value": value | named if isinstance(value, dict) else value,
    } | more  # fmt: skip


def brush(*labels: str, kind: str = "brushlabels", **more: Any) -> dict[str, Any]:
    """The left quarter of the picture, painted."""
    return item(kind, {"format": "rle", "rle": encode_rle(left_quarter())}, *labels, **more)


def left_quarter() -> NDArray[np.bool_]:
    """The pixels of `brush`."""
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.bool_)
    mask[:, : WIDTH // 4] = True
    return mask


def middle() -> NDArray[np.bool_]:
    """The pixels of BOX and RING."""
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.bool_)
    mask[HEIGHT // 4 : 3 * HEIGHT // 4, WIDTH // 4 : 3 * WIDTH // 4] = True
    return mask
