"""Damaged annotations and predictions, through the reading that the learner uses."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np
import torch
from hypothesis import strategies as st
from numpy.typing import NDArray

from plugin_config.label_studio.client import LabelStudio
from plugin_config.vocabulary import parse_vocabulary
from tests.fuzz.areas import HEIGHT, SHAPES, WIDTH, area_of, eroded
from tests.fuzz.trial import own_memory_mb
from tests.fuzz.verdicts import TAKEN, Kind, Verdict, judge_sentence, pick
from worker.label_studio.image_loader import ImageLoader
from worker.label_studio.images import ImageLimits, Picture
from worker.label_studio.regions import encode_region
from worker.learning.interfaces import UNLABELLED
from worker.segmentation.encoders.encoder import ImageEmbedding
from worker.service.trainer.corrections import Correction, read_corrections

CONFIG = """<View><Image name="image" value="$image"/>
  <BrushLabels name="b" toName="image"><Label value="cat"/><Label value="dog"/></BrushLabels>
  <PolygonLabels name="p" toName="image"><Label value="cat"/><Label value="dog"/></PolygonLabels>
  <RectangleLabels name="r" toName="image"><Label value="cat"/><Label value="dog"/></RectangleLabels>
  <EllipseLabels name="e" toName="image"><Label value="cat"/><Label value="dog"/></EllipseLabels>
  <Choices name="q" toName="image" perRegion="true"><Choice value="good"/></Choices></View>"""
LIMITS = ImageLimits(1_000_000, 1_000_000, 1.0, allow_private=False)
_TASKS, _DAMAGED = (1, 2, 3), 2
# Where the region number n of an annotation lies, percent: (left, top); each is 30 wide and 30 high.
_PLACES = ((5, 10), (55, 10), (5, 60), (55, 60))


@dataclass(frozen=True)
class Change:
    """One change of an annotation: of the value at a place, [0, 1) of all of its places, or of the list of items.

    Attributes:
        kind: "set", "drop", "item", "twice", "same id", "row", "prediction".
        at: place.
        value: what is put there, as JSON.
        name: of a field of the row.
    """

    kind: str
    at: float
    value: str = "null"
    name: str = ""


@dataclass(frozen=True)
class Record:
    """An annotation: its regions, each (shape, label), and what is changed about them."""

    regions: tuple[tuple[str, str], ...]
    changes: tuple[Change, ...]


def _item(number: int, shape: str, label: str) -> dict[str, Any]:
    left, top = _PLACES[number % len(_PLACES)]
    same = {"id": f"r{number}", "to_name": "image", "original_width": WIDTH, "original_height": HEIGHT,
            "image_rotation": 0, "origin": "manual"}  # fmt: skip
    if shape == "brush":
        mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
        mask[int(top * 0.48) : int((top + 30) * 0.48), int(left * 0.64) : int((left + 30) * 0.64)] = True
        made = encode_region(mask, kind="brush", control="b", to_name="image", label=label, score=1.0)[0]
        return {**made, **same}
    if shape == "answer":
        return {**same, "from_name": "q", "type": "choices", "value": {"choices": ["good"]}}
    if shape == "relation":
        return {"type": "relation", "from_id": "r0", "to_id": "r1", "direction": "right"}
    if shape == "elsewhere":
        value = {"x": left, "y": top, "width": 30, "height": 30, "rotation": 0, "rectanglelabels": [label]}
        return {**same, "to_name": "another", "from_name": "r2", "type": "rectanglelabels", "value": value}
    geometry: dict[str, dict[str, Any]] = {
        "polygon": {"points": [[left, top], [left + 30, top], [left + 30, top + 30], [left, top + 30]], "closed": True},
        "rectangle": {"x": left, "y": top, "width": 30, "height": 30, "rotation": 0},
        "ellipse": {"x": left + 15, "y": top + 15, "radiusX": 15, "radiusY": 15, "rotation": 0},
    }
    return {**same, "from_name": shape[0], "type": f"{shape}labels", "value": {**geometry[shape],
                                                                               f"{shape}labels": [label]}}


def rows_of(record: Record) -> tuple[dict[str, Any], dict[str, Any]]:
    """The annotation and the prediction as Label Studio's API has them."""
    items: list[Any] = [_item(number, *region) for number, region in enumerate(record.regions)]
    annotation: dict[str, Any] = {
        "id": 20, "task": _DAMAGED, "result": items, "was_cancelled": False, "ground_truth": False,
        "parent_prediction": 5, "completed_by": 1, "updated_at": "2026-01-02T03:04:05.000000Z",
    }  # fmt: skip
    prediction = {"id": 5, "task": _DAMAGED, "model_version": "ours", "result": copy.deepcopy(items), "score": 0.5}
    for change in record.changes:
        _apply(change, annotation, prediction)
    return annotation, prediction


def _apply(change: Change, annotation: dict[str, Any], prediction: dict[str, Any]) -> None:
    value = json.loads(change.value)
    items = annotation.get("result")
    if change.kind == "row":
        annotation[change.name] = value
    elif change.kind == "prediction":
        _set(prediction["result"], change.at, value)
    elif change.kind == "prediction row":
        prediction[change.name] = value
    elif not isinstance(items, list) or not items:
        return
    elif change.kind == "item":
        items.insert(int(change.at * (len(items) + 1)), value)
    elif change.kind == "twice":
        items.append(copy.deepcopy(items[int(change.at * len(items))]))
    elif change.kind == "same id":
        for item in items:
            if isinstance(item, dict):
                item["id"] = "r0"
    else:
        _set(items, change.at, value, drop=change.kind == "drop")


def _set(tree: Any, at: float, value: Any, *, drop: bool = False) -> None:
    """Set or drop the value at a place of a tree; bytes of a brush count as few places."""
    places: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        keys = list(node) if isinstance(node, dict) else range(min(len(node), 8)) if isinstance(node, list) else ()
        for key in keys:
            places.append((node, key))
            walk(node[key])

    walk(tree)
    if places:
        holder, key = places[int(at * len(places))]
        if drop:
            del holder[key]
        else:
            holder[key] = value


_ODD = ["null", "true", "0", "1", "-1", "5", "-5.5", "150", "1e308", "NaN", "Infinity", "1e-300",
        "1000000000000000000000",
        '""', '"x"', '"12"', '"cat"', '"image"', '"brushlabels"', '"rectangle"', '"ellipselabels"', '"keypointlabels"',
        '"textarea"', '"r0"', '"b"', "[]", "{}", "[[]]", "[null]", "[1,2,3]", '["zebra"]', '["dog"]', '["cat","dog"]',
        '["zebra","cat"]', "[[1,2],[3,4]]", "[[1,2],[3,4],[5,6],null]", '{"a":1}', '{"rle":[0,0,0,1]}', "false",
        "[0,0,0,16,57,27]", "[300,-1,2.5]", '"' + "w" * 300 + '"', "[" * 60 + "]" * 60, '["\\ud800"]', "50", "64", "48",
        "49", "6400"]  # fmt: skip
_ITEMS = ["null", "5", '"x"', "[]", "{}", '{"id":"z"}', '{"id":null,"type":"brushlabels","value":null}',
          '{"type":"relation"}', '{"value":{"choices":["good"]}}',
          '{"from_name":"b","to_name":"image","type":"brushlabels"}',
          '{"from_name":"q","to_name":"image","type":"choices","value":{"choices":null}}']  # fmt: skip
_ROW = ["result", "completed_by", "updated_at", "was_cancelled", "ground_truth", "parent_prediction", "id", "task"]
_UNIT = st.floats(0, 0.999)
_CHANGE = st.one_of(
    st.builds(Change, st.sampled_from(["set", "set", "set", "drop"]), _UNIT, pick(_ODD)),
    st.builds(Change, st.sampled_from(["set", "drop"]), _UNIT, pick(_ODD)),
    st.builds(Change, st.sampled_from(["twice", "same id"]), _UNIT),
    st.builds(Change, st.just("item"), _UNIT, pick(_ITEMS)),
    st.builds(Change, st.just("row"), _UNIT, pick(_ODD), st.sampled_from(_ROW)),
    st.builds(Change, st.just("prediction"), _UNIT, pick(_ODD)),
    st.builds(Change, st.just("prediction row"), _UNIT, pick(_ODD),
              st.sampled_from(["result", "result", "id", "task", "score", "model_version"])),
)  # fmt: skip
_REGION = st.tuples(
    st.sampled_from([*SHAPES, *SHAPES, "answer", "relation", "elsewhere"]), st.sampled_from(["cat", "dog"])
)
CASES = st.builds(Record, st.lists(_REGION, min_size=1, max_size=4).map(tuple),
                  st.lists(_CHANGE, max_size=3).map(tuple))  # fmt: skip


class _Answers(LabelStudio):
    """The client, with these answers in place of those of a server."""

    def __init__(self) -> None:
        super().__init__("http://127.0.0.1:9", "0" * 40)
        self.annotation: Any = None
        self.prediction: Any = None
        good, _ = rows_of(Record((("rectangle", "cat"), ("brush", "dog")), ()))
        self._good = good

    def request(self, method: str, path: str, **options: Any) -> Any:
        """Answer as the API does, with copies, through JSON."""
        task = int("".join(char for char in path if char.isdigit()) or (options.get("params") or {}).get("task") or 0)
        if path == "/api/tasks/":
            rows = [{"id": one, "data": {"image": f"/data/upload/1/{one}.png"}, "annotations_ids": str(10 * one),
                     "updated_at": "2026-01-01T00:00:00Z", "total_annotations": 1} for one in _TASKS]  # fmt: skip
            return {"tasks": rows, "total": len(rows)}
        if "annotations" in path:
            row = self.annotation if task == _DAMAGED else {**self._good, "id": 10 * task, "task": task}
            return json.loads(json.dumps([row]))
        if task != _DAMAGED:
            return [{"id": task, "task": task, "model_version": "ours", "result": [], "score": 0.5}]
        return json.loads(json.dumps([self.prediction]))


class ResultJudge:
    """Silent: an annotation of which something was learned although, under a region that lies over the picture and
    cannot be used, or anywhere where its place is unknown, pixels count as background; although an item of it is no
    object; or an annotation that is neither learned from, nor cancelled, nor named with a reason. Refused: a valid
    annotation is not learned from, or otherwise than drawn. Harmed: one of the two healthy tasks beside it is not
    learned from, as ever.
    """

    def __init__(self) -> None:
        self._vocabulary = parse_vocabulary(CONFIG)
        self._label_studio = _Answers()
        self._told: list[str] = []
        handler = logging.Handler(logging.INFO)
        handler.emit = lambda record: self._told.append(record.getMessage())  # type: ignore[method-assign]
        logging.getLogger("worker").addHandler(handler)
        self._label_studio.annotation, self._label_studio.prediction = rows_of(Record((("rectangle", "cat"),), ()))
        found = self._read()
        self._right = {row.task: row.example.truth for row in found if row.task != _DAMAGED}

    def memory_mb(self) -> float:
        return own_memory_mb()

    def _read(self) -> list[Any]:
        self._told.clear()
        reading = read_corrections(self._label_studio, 1, self._vocabulary, embed=_embed, limits=LIMITS, ours=("ours",))
        return list(reading)

    def __call__(self, case: Record) -> Verdict:
        self._label_studio.annotation, self._label_studio.prediction = rows_of(case)
        found = self._read()
        healthy = {row.task: row for row in found if isinstance(row, Correction) and row.task != _DAMAGED}
        if not self._are_right(healthy):
            return Verdict("harmed", f"of the healthy tasks, {sorted(healthy)} are learned from; {self._told}"[:400],
                           "healthy tasks")  # fmt: skip
        annotation = self._label_studio.annotation
        learned = next((row for row in found if isinstance(row, Correction) and row.task == _DAMAGED), None)
        if learned is None:
            return self._judge_left_out(case, annotation, found)
        return judge_truth(case, annotation, learned.example.truth)

    def _are_right(self, healthy: Mapping[int, Correction]) -> bool:
        return set(healthy) == set(self._right) and all(
            np.array_equal(row.example.truth, self._right[task]) for task, row in healthy.items()
        )

    def _judge_left_out(self, case: Record, annotation: Any, found: Sequence[Any]) -> Verdict:
        if not case.changes:
            return Verdict("refused", f"a valid annotation: {self._told}"[:300], "valid annotation")
        reasons = [str(row.reason) for row in found if row.task == _DAMAGED]
        reasons += [line for line in self._told if f"task {_DAMAGED} " in line or f"task {_DAMAGED}:" in line]
        if reasons:
            return judge_sentence(reasons[-1])
        if annotation.get("was_cancelled"):
            return TAKEN
        return Verdict("silent", "not learned from, and no reason is told", "no reason")


def judge_truth(case: Record, annotation: Mapping[str, Any], truth: NDArray[np.int16]) -> Verdict:
    """Compare what was learned with what the annotation says, read without the product."""
    result = annotation.get("result")
    if not isinstance(result, list):
        return Verdict("silent", f"learned from though its result is {result!r}"[:200], "result is no list")
    covered = np.zeros((HEIGHT, WIDTH), dtype=np.int16)
    for item in result:
        if not isinstance(item, dict):
            return Verdict("silent", f"learned from though an item is {item!r}"[:200], "item is no object")
        area = area_of(item)
        if area is None:
            if (truth == UNLABELLED).any():
                told = f"where it lies is unknown, and the rest is background: {_short(item)}"
                return Verdict("silent", told, f"place unknown: {_kind_of(item)}")
            continue
        inside = eroded(area)
        covered += inside
        if (truth[inside] == UNLABELLED).any():
            told = f"{int((truth[inside] == UNLABELLED).sum())} pixels under it are background: {_short(item)}"
            return Verdict("silent", told, f"background under a region: {_kind_of(item)}")
    if case.changes:
        return TAKEN
    for (shape, label), item in zip(case.regions, result, strict=True):
        area = area_of(item)
        inside = eroded(area) & (covered == 1) if area is not None else np.zeros((HEIGHT, WIDTH), dtype=bool)
        expected = ("cat", "dog").index(label)
        if shape in SHAPES[:3] and shape != "rectangle" and (truth[inside] != expected).any():
            return Verdict("refused", f"{shape} {label} is not learned as drawn", f"{shape} drawn otherwise")
    return TAKEN


def _kind_of(item: Mapping[str, Any]) -> str:
    kind = item.get("type")
    return kind.removesuffix("labels") if isinstance(kind, str) else "no type"


def _short(item: Mapping[str, Any]) -> str:
    value = item.get("value")
    if isinstance(value, dict) and isinstance(value.get("rle"), list) and len(value["rle"]) > 8:
        item = {**item, "value": {**value, "rle": [*value["rle"][:8], "..."]}}
    return ascii(item)[:500]


def _embed(images: Sequence[NDArray[np.uint8]]) -> list[ImageEmbedding]:
    return [ImageEmbedding(torch.zeros(2, 3, 4), (image.shape[0], image.shape[1])) for image in images]


@contextmanager
def judge() -> Iterator[ResultJudge]:
    """A grey picture in place of each image that would be fetched."""
    torch.set_num_threads(1)
    pixels = np.full((HEIGHT, WIDTH, 3), 100, dtype=np.uint8)
    with mock.patch.object(ImageLoader, "load", lambda *_, **__: Picture(pixels, (HEIGHT, WIDTH))):
        yield ResultJudge()


def show(case: Record) -> str:
    """The annotation, and the prediction where it is changed, as JSON."""
    annotation, prediction = rows_of(case)
    told = json.dumps(annotation)
    if any(change.kind.startswith("prediction") for change in case.changes):
        told += f" prediction: {json.dumps(prediction)}"
    return told


KIND = Kind("annotation results", CASES, "tests.fuzz.results:judge", show, most_s=5.0, most_growth_mb=80.0, full=2500,
            short=120)  # fmt: skip
