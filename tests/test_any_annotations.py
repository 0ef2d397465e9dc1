"""Any JSON as an annotation: it is drawn and counted, or it is one error of ours; the seed is fixed."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from plugin_config.errors import RegionError
from plugin_config.label_studio.annotations import Annotation
from plugin_config.label_studio.predictions import StoredPrediction
from tests.annotation_items import BOX, HEIGHT, RING, VOCABULARY, WIDTH, brush, item
from worker.label_studio.annotation_maps import draw_class_map
from worker.label_studio.outcomes import region_records
from worker.learning.interfaces import UNLABELLED
from worker.segmentation.metrics import VOID

NUMBERS = st.one_of(st.integers(), st.floats(), st.sampled_from([0, -1, 50, 1e6, 1e300, 10**400]))
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=6), inner, max_size=3)),
    max_leaves=8,
)
WHOLE = [
    brush("cat"), brush("dog", kind="brush"), item("rectanglelabels", BOX, "cat"), item("rectangle", BOX),
    item("polygonlabels", {"points": RING, "closed": True}, "cat"), item("labels", BOX, "dog"),
    item("ellipselabels", {"x": 50, "y": 50, "radiusX": 25, "radiusY": 25, "rotation": 10}, "cat"),
    item("keypointlabels", {"x": 50, "y": 50, "width": 2}, "cat"), item("choices", BOX | {"choices": ["good"]}),
    item("vectorlabels", {"vertices": [{"x": x, "y": y} for x, y in RING], "closed": True}, "cat"),
]  # fmt: skip


@st.composite
def items(draw: st.DrawFn) -> Any:
    """An item of a result that is whole, or has a few of its fields replaced or missing, or is anything."""
    if draw(st.integers(0, 9)) == 0:
        return draw(VALUES)
    made = dict(draw(st.sampled_from(WHOLE)))
    made["id"] = draw(st.sampled_from(["x1", "x2", 1, None]))
    for _ in range(draw(st.integers(0, 2))):
        inside = draw(st.booleans()) and isinstance(made.get("value"), dict)
        changed = dict(made["value"]) if inside else made
        if not changed:
            break
        key = draw(st.sampled_from(sorted(changed)))
        if draw(st.booleans()):
            changed[key] = draw(VALUES)
        else:
            del changed[key]
        made = made | {"value": changed} if inside else changed
    return made


@settings(max_examples=300, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(result=st.lists(items(), max_size=4), predicted=st.lists(items(), max_size=3))
def test_any_items_are_drawn_and_counted_or_are_one_error_of_ours(result: list[Any], predicted: list[Any]) -> None:
    annotation = Annotation(1, 1, result, False, False, None, 1, "")
    prediction = StoredPrediction(1, 1, "v", [row for row in predicted if isinstance(row, dict)], None)
    drawn = None
    with contextlib.suppress(RegionError):
        drawn = draw_class_map(result, VOCABULARY, (HEIGHT, WIDTH), (HEIGHT, WIDTH))
    with contextlib.suppress(RegionError):
        region_records(annotation, [prediction], VOCABULARY, draw=True)
    if drawn is not None:
        assert set(np.unique(drawn)) <= {0, 1, UNLABELLED, VOID}
        assert all(isinstance(row, dict) for row in result)
