"""Published mIoU of training-free open-vocabulary segmentation with CLIP ViT-B/16, to print beside what is measured.

Read in the papers' own tables or code on 2026-11-22 and 2026-11-28; nothing here was measured by this project.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

EIGHT = ("VOC21", "Context60", "COCO-Object", "VOC20", "Context59", "COCO-Stuff", "Cityscapes", "ADE20K")
"""The eight benchmarks that an average is taken over."""


@dataclass(frozen=True)
class PublishedRow:
    """What a paper published.

    Attributes:
        method: its name.
        source: the paper.
        beside: what is used beside CLIP ViT-B/16 with OpenAI's weights, or how a model that is no CLIP is used; "" =
            nothing.
        average: mean mIoU of EIGHT, in percent.
        mious: mIoU by benchmark, in percent; empty where only the average is known.
    """

    method: str
    source: str
    beside: str
    average: float
    mious: Mapping[str, float] = field(default_factory=dict)


def _row(method: str, source: str, beside: str, average: float, *mious: float) -> PublishedRow:
    return PublishedRow(method, source, beside, average, dict(zip(EIGHT, mious, strict=True)) if mious else {})


PUBLISHED = (
    _row("CLIP", "Radford et al., ICML 2021, as later papers compare it", "", 11.7,
         16.4, 8.4, 5.6, 41.9, 9.2, 4.4, 5.0, 2.9),
    _row("MaskCLIP", "Zhou et al., ECCV 2022, as later papers compare it", "", 30.3,
         43.4, 23.2, 20.6, 74.9, 26.4, 16.7, 24.9, 11.9),
    _row("SCLIP", "Wang et al., ECCV 2024", "", 38.2, 59.1, 30.4, 30.5, 80.4, 34.2, 22.4, 32.2, 16.1),
    _row("NACLIP", "Hajimiri et al., WACV 2025", "", 39.4, 58.9, 32.2, 33.2, 79.7, 35.2, 23.3, 35.5, 17.4),
    _row("ProxyCLIP", "Lan et al., ECCV 2024", "DINO ViT-B/8", 42.3, 61.3, 35.3, 37.5, 80.3, 39.1, 26.5, 38.1, 20.2),
    _row("Trident", "Shi et al., ICCV 2025", "DINO, SAM-B", 45.8, 67.1, 38.6, 41.1, 84.5, 42.2, 28.3, 42.9, 21.9),
    _row("CorrCLIP", "ICCV 2025", "DINO, SAM 2", 48.7),
    _row("OV-Stitcher", "arXiv 2604.08110", "no SAM", 48.9),
    _row("OV-Stitcher", "arXiv 2604.08110", "votes of SAM's masks", 50.7),
    _row("SAM 3", "Meta, 2025; another protocol", "asked for class names; SAM License", 57.5),
)  # fmt: skip
