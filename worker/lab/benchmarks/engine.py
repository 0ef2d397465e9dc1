"""What segmenting costs beside the bare model: forward, shape, one stage against two, growth, what a cache saves.

Everything is timed in turns of one run, so that the ratios hold on a busy machine too. It must not know Redis, Label
Studio or files other than the weights it makes.
"""

from __future__ import annotations

import resource
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from rich.console import Console

from worker.lab.benchmarks.bars import Figure
from worker.lab.benchmarks.clock import Times, take_turns
from worker.lab.benchmarks.emulated import PRESENT, Stand, draw, stand
from worker.lab.benchmarks.random_models import TINY, random_weights
from worker.lab.benchmarks.two_stage import Crops, Proposals, proposals
from worker.lab.evaluation.baselines import FULL_DILATIONS, pamr
from worker.label_studio.results import encode_segments
from worker.segmentation.cache import EmbeddingCache
from worker.segmentation.encoders.checkpoints import resolve
from worker.segmentation.encoders.encoder import Encoder
from worker.segmentation.outlines.refinement import pixel_classes
from worker.segmentation.segmenter import LabelSegment, Segmenter

_PROPOSALS = (20, 50, 100)  # the last is ZegFormer's number of queries
_LABELS = (5, 20, 40, 80, 300)
_ASKED = 20
_MEGAPIXELS = (0.25, 1.0, 4.0, 12.0)


@dataclass(frozen=True)
class EngineSize:
    """How large everything is.

    Attributes:
        model: an open_clip architecture; its weights are random.
        height, width: of the picture, pixels; its short side is that at which it enters the model.
        turns: of what takes a second; `slow_turns` of what takes a minute.
        shrink: divides the pixels of the growth figures.
    """

    model: str = "ViT-B-16"
    height: int = 448
    width: int = 592
    turns: int = 5
    slow_turns: int = 3
    shrink: int = 1


QUICK = EngineSize(TINY, 128, 160, turns=1, slow_turns=1, shrink=100)


def engine_figures(size: EngineSize, device: str, console: Console) -> Mapping[str, Figure]:
    """Measure with random weights; masks are made of emulated patch logits, everything else is the real path.

    Returns:
        encoder_ms: a bare open_clip forward of pixels that lie ready, at the same number of tokens.
        image_to_regions_ms: from (H, W, 3) pixels to Label Studio brush regions, 20 labels, 5 of them in the picture;
            overhead: that over encoder_ms. images_per_s: its inverse, one picture at a time.
        shape_ms: patch logits to pixel classes; pamr_ms, pamr_present_ms: PAMR at full resolution on the same classes,
            and on the six that are there; shape_speedup, shape_speedup_present: these over shape_ms.
        one_stage_speedup, one_stage_speedup_20, _50, _100: from pixels to regions by that many given proposals, each
            cut out and encoded, over image_to_regions_ms. The first is that of 100.
        labels_N_overhead, megapixels_N_overhead: image_to_regions over encoder, by labels and by size of the picture.
        labels_20_to_40: what 20 labels more add, as a part.
        cache_hit_ms, cache_hit_speedup: an image seen before, and what embedding it anew takes of that.
        regions: how many came out. memory_mb: the GPU's at most, or the process's own.
        model, weights, picture, device, threads: what it was measured with.
    """
    with tempfile.TemporaryDirectory(prefix="zm-e-") as folder, console.status("random weights ...") as status:
        model = random_weights(Path(folder), size.model)
        encoder = Encoder(model, device=device, short_side=size.height)
        status.update("bare model ...")
        bare = _bare_tower(model, encoder.device, (size.height, size.width))
        tower = _bare_tower(model, encoder.device, None)
        crops = Crops(tower, encoder.native_size, encoder.embed_texts([f"thing {k}" for k in range(_ASKED)]))
    bench = _Bench(encoder, size, console)
    facts: dict[str, Figure] = {
        "model": size.model, "weights": "random", "picture": f"{size.width}x{size.height}",
        "device": str(encoder.device), "threads": torch.get_num_threads(),
    }  # fmt: skip
    return {**facts, **bench.whole(bare), **bench.stages(crops), **bench.growth(bare), "memory_mb": _memory_mb()}


class _Bench:
    """Holds the model and what it is shown."""

    def __init__(self, encoder: Encoder, size: EngineSize, console: Console) -> None:
        self._segmenter = Segmenter(encoder)
        self._size = size
        self._console = console
        self._drawing = draw(size.height, size.width)
        self._stand = stand(self._drawing, _ASKED, encoder.device)

    def whole(self, bare: Callable[[], object]) -> dict[str, Figure]:
        """The forward, the whole, the shape stage, the cache."""
        shown, told = self._stand, self._stand.head.told
        size = (shown.image.shape[0], shown.image.shape[1])
        cache = EmbeddingCache(self._segmenter)
        cache.embed([shown.image])
        times = take_turns(
            {
                "encoder": bare,
                "whole": lambda: self._regions(shown),
                "shape": lambda: pixel_classes(told, size, shown.image),
                "embed": lambda: self._segmenter.embed([shown.image]),
                "hit": lambda: cache.embed([shown.image]),
            },
            turns=self._size.turns, console=self._console, told="pixels to regions",
        )  # fmt: skip
        return {
            "encoder_ms": times.ms("encoder"), "image_to_regions_ms": times.ms("whole"),
            "overhead": times.ratio("whole", "encoder"), "images_per_s": 1000 / times.ms("whole"),
            "shape_ms": times.ms("shape"), "cache_hit_ms": times.ms("hit"),
            "cache_hit_speedup": times.ratio("embed", "hit"), "regions": len(self._regions(shown)),
        }  # fmt: skip

    def stages(self, crops: Crops) -> dict[str, Figure]:
        """One stage against two, and the shape stage against PAMR."""
        shown, told = self._stand, self._stand.head.told
        size = (shown.image.shape[0], shown.image.shape[1])
        there = torch.cat([told[:PRESENT], told[-1:]])
        rivals: dict[str, Callable[[], object]] = {
            f"two_{count}": _bound(self._regions_of, crops, proposals(count, *size)) for count in _PROPOSALS
        }
        times = take_turns(
            {
                "whole": lambda: self._regions(shown), **rivals,
                "shape": lambda: pixel_classes(told, size, shown.image),
                "pamr": lambda: pamr(told, shown.image, step=1, dilations=FULL_DILATIONS),
                "present": lambda: pamr(there, shown.image, step=1, dilations=FULL_DILATIONS),
            },
            turns=self._size.slow_turns, console=self._console, told="rivals", warm_up=False,
        )  # fmt: skip
        speedups = {f"one_stage_speedup_{count}": times.ratio(f"two_{count}", "whole") for count in _PROPOSALS}
        return {
            "one_stage_speedup": speedups[f"one_stage_speedup_{_PROPOSALS[-1]}"], **speedups,
            "pamr_ms": times.ms("pamr"), "shape_speedup": times.ratio("pamr", "shape"),
            "pamr_present_ms": times.ms("present"), "shape_speedup_present": times.ratio("present", "shape"),
        }  # fmt: skip

    def growth(self, bare: Callable[[], object]) -> dict[str, Figure]:
        """More labels and more pixels. Embedding knows no labels, so it is timed once a turn for all of them."""
        asked = {labels: stand(self._drawing, labels, self._stand.head.told.device) for labels in _LABELS}
        (embedding,) = self._segmenter.embed([self._drawing.image])
        larger = {f"{size:g}": self._of_size(size) for size in _MEGAPIXELS}
        times = take_turns(
            {
                "encoder": bare,
                "embed": lambda: self._segmenter.embed([self._drawing.image]),
                **{f"labels_{n}": _bound(self._cheap_half, embedding, one) for n, one in asked.items()},
                **{f"megapixels_{n}": _bound(self._regions, one) for n, one in larger.items()},
            },
            turns=self._size.turns, console=self._console, told="growth",
        )  # fmt: skip
        figures: dict[str, Figure] = {
            f"labels_{n}_overhead": times.total_ratio(["embed", f"labels_{n}"], "encoder") for n in asked
        }
        figures.update({f"megapixels_{n}_overhead": times.ratio(f"megapixels_{n}", "encoder") for n in larger})
        return {**figures, "labels_20_to_40": _added(times, "labels_20", "labels_40")}

    def _of_size(self, megapixels: float) -> Stand:
        height = round((megapixels * 1e6 / self._size.shrink * 3 / 4) ** 0.5)
        return stand(draw(height, round(height * 4 / 3)), _ASKED, self._stand.head.told.device)

    def _regions(self, shown: Stand) -> list[dict[str, Any]]:
        (embedding,) = self._segmenter.embed([shown.image])
        return self._cheap_half(embedding, shown)

    def _regions_of(self, crops: Crops, given: Proposals) -> list[dict[str, Any]]:
        """What two stages make of the picture: all of a class is one region, which is the cheapest."""
        classes, labels = crops.pixel_classes(self._stand.image, given), self._stand.vocabulary.labels
        present = [k for k in np.unique(classes) if k < len(labels)]
        return encode_segments([LabelSegment(labels[k], classes == k, 1.0) for k in present])

    def _cheap_half(self, embedding: Any, shown: Stand) -> list[dict[str, Any]]:
        found = self._segmenter.segment(embedding, shown.vocabulary, shown.image, head=shown.head)
        return encode_segments(found.segments)


def _added(times: Times, fewer: str, more: str) -> float:
    """By how much of the whole it grows from fewer labels to more."""
    return times.total_ratio(["embed", more], "encoder") / times.total_ratio(["embed", fewer], "encoder") - 1


def _bound(function: Callable[..., object], *arguments: object) -> Callable[[], object]:
    return lambda: function(*arguments)


def _bare_tower(model: str, device: torch.device, size: tuple[int, int] | None) -> Any:
    """open_clip's own image tower at a size of its own making: called with nothing where a size is given."""
    source = resolve(model)
    whole = open_clip.create_model(
        source.name, pretrained=source.pretrained, force_image_size=size, require_pretrained=True
    )
    tower = whole.visual.to(device).eval().requires_grad_(False)
    if size is None:
        return tower
    pixels = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0)).to(device)
    return torch.inference_mode()(lambda: tower(pixels))


def _memory_mb() -> float:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
