"""Segments of an image -> the result of a Label Studio prediction."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from plugin_config.control_tags import OutputKind
from worker.label_studio.region_ids import new_region_id
from worker.label_studio.regions import encode_region
from worker.segmentation.image_choices import ChoiceAnswer
from worker.segmentation.segmenter import LabelSegment

MOST_REGIONS = 300
"""Regions of one result: 100 polygons open in 2.4 s, 500 in 9.3 s (docs/results/browser_limits.json)."""

MOST_CANVAS_PIXELS: Mapping[OutputKind, float] = {"brush": 125e6, "bitmask": 25e6}
"""Pixels of all canvases of one result. For each region of these kinds the editor holds one of the image's size; with
more, its page takes too long or too much memory (docs/results/browser_limits.json)."""

MOST_BYTES = 4_000_000
"""JSON of one result; Label Studio stores it whole and sends it whole to every annotator who opens the task."""

_BYTE_BYTES, _POINT_BYTES, _FRAME_BYTES = 5, 27, 1000  # "255, "; "[12.345678, 12.345678], "; everything else
_VERTEX_BYTES = 110  # {"id": "v123", "prevPointId": "v122", "x": 12.345678, "y": 12.345678, "isBezier": false},


@dataclass(frozen=True)
class EncodedSegments:
    """The segments of an image as regions.

    Attributes:
        regions: as Label Studio stores them.
        left_out: how many segments are not among them, and why; "" = none.
    """

    regions: list[dict[str, Any]]
    left_out: str = ""


def encode_segments(
    segments: Iterable[LabelSegment],
    *,
    size: tuple[int, int] | None = None,
    most_regions: int = MOST_REGIONS,
    most_bytes: int = MOST_BYTES,
    canvas_part: float = 1.0,
) -> EncodedSegments:
    """Encode the segments of an image, each as the kind of region its label's control draws.

    Where the result would be too large, or more than the editor bears, the segments with the largest area times score
    are kept, the others are left out whole.

    Args:
        segments: of the image.
        size: (H, W) of the image, where the segments are those of a reduced copy of it; None = that of their masks.
        most_regions: in the result; a polygon of several islands is as many regions.
        most_bytes: of the result as JSON, as an upper bound: numbers are counted, not written out.
        canvas_part: part of MOST_CANVAS_PIXELS, in (0, 1], that is this image's: the page may have others.

    Raises:
        RegionError: as `encode_region`.
    """
    encoded = [(segment, _regions(segment, size)) for segment in segments]
    worth = [float(segment.mask.sum()) * segment.score for segment, _ in encoded]
    sizes = [json_bytes_bound(regions) for _, regions in encoded]
    kept, regions_left, bytes_left, canvas_left = set[int](), most_regions, most_bytes, canvas_part
    for number in sorted(range(len(encoded)), key=lambda k: -worth[k]):
        segment, regions = encoded[number]
        count = len({region["id"] for region in regions})  # with a Labels control each is two items
        canvas = count * _canvas_share(segment.label.output, size or segment.mask.shape)
        bearable = canvas <= canvas_left or not kept  # one is shown, however large the image is
        if count <= regions_left and sizes[number] <= bytes_left and bearable:
            kept.add(number)
            regions_left, bytes_left = regions_left - count, bytes_left - sizes[number]
            canvas_left -= canvas
    left_out = ""
    if len(kept) < len(encoded):
        each = " and ".join(f"{canvas_part * most / 1e6:.0f} of {kind}" for kind, most in MOST_CANVAS_PIXELS.items())
        left_out = (f"{len(encoded) - len(kept)} of {len(encoded)} masks: a result has at most {most_regions} regions, "
                    f"{most_bytes / 1e6:.1f} MB and canvases of {each} megapixels; polygons and rectangles take none")
    regions = [region for number, (_, regions) in enumerate(encoded) if number in kept for region in regions]
    return EncodedSegments(regions, left_out)


def encode_answers(answers: Iterable[ChoiceAnswer]) -> list[dict[str, Any]]:
    """Encode answers to questions about an image, as Label Studio stores those of its Choices."""
    return [
        {
            "id": new_region_id(),
            "from_name": answer.choices.control,
            "to_name": answer.choices.to_name,
            "type": "choices",
            "value": {"choices": list(answer.keys)},
            "score": answer.score,
        }
        for answer in answers
    ]


def json_bytes_bound(regions: Iterable[Mapping[str, Any]]) -> int:
    """An upper bound on the bytes of regions as JSON; numbers are counted, not written out."""
    return sum(map(_bytes_of, regions))


def _canvas_share(kind: OutputKind, size: tuple[int, ...]) -> float:
    """What a region of an image of (H, W) takes of the canvases that the editor bears; 0 for kinds without any."""
    return size[0] * size[1] / MOST_CANVAS_PIXELS[kind] if kind in MOST_CANVAS_PIXELS else 0.0


def _bytes_of(region: Mapping[str, Any]) -> int:
    value = region["value"]
    points = _POINT_BYTES * len(value.get("points", ())) + _VERTEX_BYTES * len(value.get("vertices", ()))
    return _FRAME_BYTES + _BYTE_BYTES * len(value.get("rle", ())) + points + len(value.get("imageDataURL", ""))


def _regions(segment: LabelSegment, size: tuple[int, int] | None) -> list[dict[str, Any]]:
    return encode_region(
        segment.mask,
        kind=segment.label.output,
        control=segment.label.control,
        to_name=segment.label.to_name,
        label=segment.label.key,
        score=segment.score,
        raw_score=segment.raw_score,
        size=size,
        shape=segment.label.shape,
    )
