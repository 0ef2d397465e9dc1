"""What was found in an image -> the result of a Label Studio prediction. It must not know tasks or files."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from worker.regions import encode_region
from worker.segmentation.segmenter import LabelSegment


def encode_segments(segments: Iterable[LabelSegment]) -> list[dict[str, Any]]:
    """The Label Studio result of everything found in an image, each segment as its label's control draws it.

    Raises:
        RegionError: as `encode_region`.
    """
    return [
        region
        for segment in segments
        for region in encode_region(
            segment.mask,
            kind=segment.label.output,
            control=segment.label.control,
            to_name=segment.label.to_name,
            label=segment.label.key,
            score=segment.score,
        )
    ]
