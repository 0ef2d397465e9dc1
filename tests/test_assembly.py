"""Classes -> segments: what touches is cut, what is one stays one, rags go, scores are monotone, results stay small."""

from __future__ import annotations

import math
from dataclasses import fields, replace

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from plugin_config.control_tags import OutputKind
from plugin_config.vocabulary import Label, parse_vocabulary
from worker.label_studio.brush_rle import encode_rle
from worker.label_studio.regions import decode_region
from worker.label_studio.results import MOST_CANVAS_PIXELS, encode_segments
from worker.segmentation.encoders.encoder import Encoder
from worker.segmentation.instances.acceptance import ACCEPTANCE_MODEL, AcceptanceWeights, SegmentEvidence
from worker.segmentation.instances.assembly import SegmentRequest, assemble
from worker.segmentation.instances.class_map import clean
from worker.segmentation.instances.cut_evidence import CutEvidence
from worker.segmentation.instances.splitting import CUT_RULE, split_component
from worker.segmentation.segmenter import LabelSegment, Segmenter

pytestmark = pytest.mark.usefixtures("one_thread")

Mask = NDArray[np.bool_]
Image = NDArray[np.uint8]
SIZE = (200, 260)
RED, DARK, GREY = (200, 40, 40), (120, 20, 30), (128, 128, 120)


def shape(points: list[tuple[int, int]]) -> Mask:
    return np.asarray(cv2.fillPoly(np.zeros(SIZE, np.uint8), [np.array(points, np.int32)], 1) > 0)


def disc(x: int, y: int, radius: int) -> Mask:
    return np.asarray(cv2.circle(np.zeros(SIZE, np.uint8), (x, y), radius, 1, -1) > 0)


def box(left: int, top: int, right: int, bottom: int) -> Mask:
    mask = np.zeros(SIZE, dtype=np.bool_)
    mask[top:bottom, left:right] = True
    return mask


def stripes(colour: tuple[int, int, int], second: tuple[int, int, int], *, upright: bool) -> Image:
    place = np.arange(SIZE[1])[None] if upright else np.arange(SIZE[0])[:, None]
    chosen = np.broadcast_to((place // 6) % 2 == 0, SIZE)
    return np.where(chosen[..., None], colour, second).astype(np.uint8)


def iou(one: Mask, other: Mask) -> float:
    return float((one & other).sum() / (one | other).sum())


def picture(*layers: tuple[Mask, Image | tuple[int, int, int]]) -> Image:
    image = np.full((*SIZE, 3), GREY, dtype=np.uint8)
    for mask, paint in layers:
        image[mask] = paint[mask] if isinstance(paint, np.ndarray) else paint
    noise = np.random.default_rng(0).integers(-5, 6, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


LEFT, RIGHT = disc(85, 100, 44), disc(173, 100, 44)
SQUARES = box(40, 60, 120, 140), box(120, 60, 200, 140)
CROSS = box(60, 80, 200, 120) | box(110, 30, 150, 170)
STAR = shape([(130, 20), (150, 80), (210, 80), (160, 115), (180, 180), (130, 140), (80, 180), (100, 115), (50, 80),
              (110, 80)])  # fmt: skip
RING = disc(130, 100, 70) & ~disc(130, 100, 35)


@pytest.mark.parametrize(
    ("things", "paints"),
    [
        pytest.param((LEFT, RIGHT & ~LEFT), (RED, RED), id="the very same colour, a neck between"),
        pytest.param((LEFT, RIGHT & ~LEFT), (RED, DARK), id="two reds, a neck between"),
        pytest.param(SQUARES, (RED, DARK), id="two reds, no neck at all"),
        pytest.param(SQUARES, (stripes(RED, DARK, upright=True), stripes(RED, DARK, upright=False)),
                     id="the same reds in stripes of two directions"),
        pytest.param(SQUARES, (stripes(RED, DARK, upright=True), RED), id="striped and plain"),
    ],
)  # fmt: skip
def test_things_of_one_class_that_touch_are_parted(things: tuple[Mask, Mask], paints: tuple[Image, Image]) -> None:
    image = picture(*zip(things, paints, strict=True))
    parts = split_component(things[0] | things[1], image)
    assert len(parts) == 2
    for thing in things:
        assert max(iou(part.mask, thing) for part in parts) > 0.9


@pytest.mark.parametrize("mask", [disc(130, 100, 80), CROSS, STAR, RING, SQUARES[0] | SQUARES[1]],
                         ids=["disc", "cross", "star", "ring", "long box"])  # fmt: skip
@pytest.mark.parametrize("paint", [RED, stripes(RED, DARK, upright=True)], ids=["plain", "striped"])
def test_one_big_thing_stays_one(mask: Mask, paint: Image) -> None:
    assert len(split_component(mask, picture((mask, paint)))) == 1


def test_parts_are_disjoint_and_lose_no_pixel() -> None:
    row = [disc(30 + 50 * k, 100, 25) for k in range(5)]
    whole = np.any(row, axis=0)
    parts = [part.mask for part in split_component(whole, picture(*zip(row, (RED, DARK, RED, DARK, RED), strict=True)))]
    assert len(parts) == 5
    assert np.array_equal(np.sum(parts, axis=0), whole)


def test_no_more_than_eight_parts_are_made() -> None:
    beads = [disc(12 + 21 * k, 20, 11) for k in range(12)]
    paints = [RED, DARK] * 6
    assert 2 <= len(split_component(np.any(beads, axis=0), picture(*zip(beads, paints, strict=True)))) <= 8


@pytest.mark.parametrize("mask", [box(3, 3, 4, 4), box(3, 3, 250, 5), box(0, 0, 1, 200)], ids=["dot", "wire", "edge"])
def test_what_is_too_thin_or_small_is_left_alone(mask: Mask) -> None:
    assert [part.mask.sum() for part in split_component(mask, picture())] == [mask.sum()]


def test_every_evidence_counts_the_way_it_must() -> None:
    for weights in (CUT_RULE.alike, CUT_RULE.unlike):
        assert max(weights.neck, weights.neck_squared) <= 0
        assert min(weights.contrast, weights.edge, weights.crease, weights.convexity, weights.balance) >= 0
        assert {item.name for item in fields(CutEvidence)} == set(vars(weights)) - {"bias"}


def test_specks_and_pinholes_go_to_what_surrounds_them_and_holes_stay() -> None:
    classes = np.full(SIZE, 2, dtype=np.int16)
    classes[box(20, 20, 120, 180)] = 0
    classes[box(120, 20, 240, 180)] = 1
    hole, pinhole, speck = box(40, 40, 70, 70), box(90, 90, 94, 94), box(180, 100, 184, 104)
    classes[hole], classes[pinhole], classes[speck] = 2, 2, 0
    found = clean(classes, min_area=26)
    assert (found[pinhole] == 0).all()
    assert (found[speck] == 1).all()
    assert (found[hole] == 2).mean() > 0.99


def test_poles_and_wires_survive_smoothing() -> None:
    classes = np.full(SIZE, 1, dtype=np.int16)
    slanted = cv2.line(np.zeros(SIZE, np.uint8), (5, 190), (250, 120), 1) > 0
    wires = box(20, 50, 240, 51) | box(100, 10, 101, 190) | slanted
    classes[wires] = 0
    assert (clean(classes, min_area=1)[wires] == 0).all()


def test_ragged_borders_cost_fewer_bytes_and_no_shape() -> None:
    smooth = np.where(disc(130, 100, 60), 0, 1).astype(np.int16)
    rng = np.random.default_rng(1)
    near = cv2.morphologyEx((smooth == 0).astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((5, 5), np.uint8)) > 0
    ragged = np.where(near & (rng.random(SIZE) < 0.3), 1 - smooth, smooth).astype(np.int16)
    found = clean(ragged, min_area=26)
    assert len(encode_rle(found == 0)) < 0.5 * len(encode_rle(ragged == 0))
    assert iou(found == 0, smooth == 0) > iou(ragged == 0, smooth == 0) + 0.02


def test_nothing_overlaps_whatever_the_class_map() -> None:
    rng = np.random.default_rng(2)
    classes = cv2.resize(rng.integers(0, 6, (12, 16)).astype(np.uint8), SIZE[::-1], interpolation=cv2.INTER_NEAREST)
    classes[rng.random(SIZE) < 0.1] = 3
    image = rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    requests = [SegmentRequest(index, index >= 3) for index in range(5)]
    found = assemble(classes.astype(np.int16), np.full(SIZE, 0.8, np.float32), requests, image)
    assert len(found) > 5
    assert np.sum([segment.mask for segment in found], axis=0).max() == 1
    assert sum(segment.stuff for segment in found) == 2


EVIDENCE = SegmentEvidence(posterior=0.8, contrast=0.5, size=-6.0, cut_margin=2.0)


@pytest.mark.parametrize("stuff", [True, False], ids=["stuff", "thing"])
@pytest.mark.parametrize("name", [item.name for item in fields(SegmentEvidence)])
def test_a_score_never_falls_as_evidence_grows(name: str, stuff: bool) -> None:
    scores = [
        ACCEPTANCE_MODEL.score(replace(EVIDENCE, **{name: getattr(EVIDENCE, name) + more}), stuff=stuff)
        for more in (-1.0, -0.1, 0.0, 0.1, 1.0)
    ]
    assert scores == sorted(scores)
    assert 0 < scores[0] <= scores[-1] < 1
    assert {item.name for item in fields(AcceptanceWeights)} == set(vars(EVIDENCE)) - {"cut_margin"} | {"bias"}
    assert scores[-1] <= replace(EVIDENCE, cut_margin=3.0).cut_certainty


def label(key: str, *, control: str = "brush", output: str = "brush", stuff: bool = False, text: str = "") -> Label:
    return Label(key, (text or key,), control=control, to_name="i", image_value="$i", output=output, stuff=stuff)  # type: ignore[arg-type]


def test_one_word_is_drawn_whole_by_one_control_and_one_by_one_by_another() -> None:
    things = LEFT, disc(210, 160, 30)
    image = picture((things[0], RED), (things[1], RED))
    both = parse_vocabulary(
        """<View><Image name="i" value="$i"/>
        <BrushLabels name="brush" toName="i" segments="semantic"><Label value="red shape"/></BrushLabels>
        <PolygonLabels name="outline" toName="i"><Label value="red shape"/></PolygonLabels>
        <RectangleLabels name="box" toName="i" smart="true"><Label value="red shape"/></RectangleLabels></View>"""
    )
    segmenter = Segmenter(Encoder("builtin", device="cpu"))
    found = segmenter.segment(segmenter.embed([image])[0], both, image).segments
    by_control = {name: [s.mask for s in found if s.label.control == name] for name in ("brush", "outline", "box")}
    assert [len(masks) for masks in by_control.values()] == [1, 2, 0]
    assert np.array_equal(by_control["brush"][0], by_control["outline"][0] | by_control["outline"][1])


def segments(masks: list[Mask], scores: list[float], *, output: str = "brush") -> list[LabelSegment]:
    return [LabelSegment(label("red", output=output), *pair) for pair in zip(masks, scores, strict=True)]


def test_a_result_that_would_be_too_large_keeps_the_large_and_certain() -> None:
    rng = np.random.default_rng(3)
    noisy = [box(0, 0, 130, 200) & (rng.random(SIZE) < 0.5), box(130, 0, 260, 100) & (rng.random(SIZE) < 0.5)]
    found = segments([*noisy, box(140, 120, 200, 180)], [0.9, 0.2, 0.5])
    every = encode_segments(found).regions
    assert len(every) == 3
    cheap, dear = (sum(len(region["value"]["rle"]) for region in every[k::2]) for k in (0, 1))
    kept = encode_segments(found, most_bytes=5 * cheap + 3000)
    assert [region["value"]["rle"] for region in kept.regions] == [every[0]["value"]["rle"], every[2]["value"]["rle"]]
    assert kept.left_out.startswith("1 of 3 masks: ")
    assert not encode_segments(found).left_out
    assert dear > 0


def test_a_result_holds_at_most_so_many_regions_and_a_polygon_counts_its_islands() -> None:
    dots = np.any([box(4 + 9 * k, 4, 8 + 9 * k, 8) for k in range(20)], axis=0)
    found = segments([dots, disc(130, 120, 60)], [0.9, 0.1], output="polygon")
    assert len(encode_segments(found).regions) == 21
    kept = encode_segments(found, most_regions=20)
    assert [region["score"] for region in kept.regions] == [0.1]


@pytest.mark.parametrize("output", ["brush", "bitmask"])
def test_a_result_holds_no_more_canvases_than_the_editor_bears(output: OutputKind) -> None:
    """For each such region of an image the editor holds a canvas of the image's size."""
    found = segments([disc(20 + 40 * k, 130, 12 + k) for k in range(6)], [0.9] * 6, output=output)
    large = math.isqrt(int(MOST_CANVAS_PIXELS[output] / 4))  # pixels of its sides
    kept = encode_segments(found, size=(large, large))
    assert len(kept.regions) == 4
    assert kept.left_out.startswith("2 of 6 masks: ")
    assert "canvases of 125 of brush and 25 of bitmask megapixels" in kept.left_out
    assert len(encode_segments(found, size=(large, large), canvas_part=0.5).regions) == 2, "other images are there, too"
    assert len(encode_segments(found, size=(8 * large, large)).regions) == 1, "one is shown, however large the image is"
    boxes = segments([disc(20 + 40 * k, 130, 12 + k) for k in range(6)], [0.9] * 6, output="rectangle")
    assert len(encode_segments(boxes, size=(large, large)).regions) == 6, "a rectangle has no canvas"


@pytest.mark.parametrize("output", ["brush", "polygon"])
def test_what_was_assembled_comes_back_from_its_regions_holes_and_all(output: str) -> None:
    classes = np.where(RING | box(5, 5, 60, 60), 0, 1).astype(np.int16)
    image = picture((RING, RED), (box(5, 5, 60, 60), RED))
    found = assemble(classes, np.ones(SIZE, np.float32), [SegmentRequest(0, stuff=False)], image)
    assert len(found) == 2
    for segment in found:
        regions = encode_segments(segments([segment.mask], [segment.score], output=output)).regions
        back = np.any([decode_region(region, SIZE[1], SIZE[0]) for region in regions], axis=0)
        assert iou(back, segment.mask) > (0.95 if output == "polygon" else 0.9999)  # a pixel of a small box is much
        assert not back[100, 130]  # the hole


@pytest.mark.parametrize(
    ("control", "inner", "stuff"),
    [
        pytest.param("", "", (False, True), id="panoptic by default"),
        pytest.param('segments="panoptic"', "", (False, True), id="panoptic"),
        pytest.param('segments="semantic"', "", (True, True), id="semantic"),
        pytest.param('segments="Instance"', "", (False, False), id="instance, kind is not looked at"),
        pytest.param('segments="semantic"', 'segments="instance"', (False, True), id="a label differs"),
    ],
)
def test_a_control_says_what_makes_a_region(control: str, inner: str, stuff: tuple[bool, bool]) -> None:
    config = (f'<View><Image name="i" value="$i"/><BrushLabels name="b" toName="i" {control}>'
              f'<Label value="car" {inner}/><Label value="sky" kind="stuff"/></BrushLabels></View>')  # fmt: skip
    assert tuple(each.stuff for each in parse_vocabulary(config).labels) == stuff


def test_things_that_a_head_tells_apart_are_divided_before_they_are_cut() -> None:
    both = box(40, 60, 200, 140)
    image = picture((both, RED))
    classes = np.where(both, 0, 1).astype(np.int16)
    sure, requests = np.ones(SIZE, np.float32), [SegmentRequest(0, stuff=False)]
    things = np.zeros(SIZE, np.int32)
    things[60:140, 40:100], things[60:140, 110:200] = 7, 3
    things[60:62, 150:152] = 9  # fewer pixels than a segment may have
    things[80:100, 190:230] = 8  # a neighbour whose mask overlaps the border
    assert len(assemble(classes, sure, requests, image)) == 1
    found = assemble(classes, sure, requests, image, things=things)
    assert len(found) == 2
    assert [segment.mask.sum() for segment in found] == sorted((s.mask.sum() for s in found), reverse=True)
    assert iou(found[0].mask, box(105, 60, 200, 140)) > 0.95
    assert iou(found[1].mask, box(40, 60, 105, 140)) > 0.95
    whole = assemble(classes, sure, [SegmentRequest(0, stuff=True)], image, things=things)
    assert len(whole) == 1
    for nothing in (np.zeros(SIZE, np.int32), np.where(both, 5, 0).astype(np.int32)):
        same = assemble(classes, sure, requests, image, things=nothing)
        assert [segment.score for segment in same] == [s.score for s in assemble(classes, sure, requests, image)]
