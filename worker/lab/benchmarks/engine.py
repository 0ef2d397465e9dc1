"""Cost of segmenting beside the bare model: forward, outline stage, one stage against two, growth, cache.

Everything is timed in turns within one run, so that the ratios hold on a busy machine too.
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

from worker.lab.benchmarks.emulated import PRESENT, TINY, EmulatedPicture, draw, emulate, random_weights
from worker.lab.benchmarks.targets import Figure
from worker.lab.benchmarks.timing import Timings, time_in_turns
from worker.lab.benchmarks.two_stage import Crops, Proposals, proposals
from worker.lab.evaluation.baselines import FULL_DILATIONS, pamr
from worker.label_studio.results import encode_segments
from worker.learning.recipes.dense.zegclip import ZegclipNetwork
from worker.learning.recipes.dense.zegclip_presets import small_zegclip
from worker.segmentation.cache import EmbeddingCache
from worker.segmentation.encoders.checkpoints import resolve
from worker.segmentation.encoders.encoder import Encoder
from worker.segmentation.encoders.towers import TowerConfig
from worker.segmentation.outlines.refinement import pixel_classes
from worker.segmentation.segmenter import LabelSegment, Segmenter

_PROPOSALS = (20, 50, 100)  # the last is ZegFormer's number of queries
_LABELS = (5, 20, 40, 80, 300)
_USUAL_LABELS = 20
_MEGAPIXELS = (0.25, 1.0, 4.0, 12.0)


@dataclass(frozen=True)
class EngineSize:
    """Sizes of models and images, and numbers of turns.

    Attributes:
        model: an open_clip architecture; its weights are random.
        height, width: of the image, pixels; it enters the model at its own size.
        turns: of contestants that take a second; `slow_turns` of those that take a minute.
        shrink: divides the pixels of the growth figures.
    """

    model: str = "ViT-B-16"
    height: int = 448
    width: int = 592
    turns: int = 5
    slow_turns: int = 3
    shrink: int = 1


QUICK = EngineSize(TINY, 128, 160, turns=1, slow_turns=1, shrink=100)


def engine_figures(
    size: EngineSize, device: str, console: Console, *, affinity_tower: str = ""
) -> Mapping[str, Figure]:
    """Measure with random weights and emulated patch logits; everything else is the real path.

    Args:
        size: of models and images.
        device: auto, cpu, cuda or cuda:N.
        console: where progress is shown.
        affinity_tower: as ZEROMASK_AFFINITY_TOWER; "" = its figure is left out.

    Returns:
        encoder_ms: a bare open_clip forward of prepared pixels, at the same number of tokens.
        image_to_regions_ms: from (H, W, 3) pixels to Label Studio brush regions, 20 labels, 5 of them in the image;
            overhead: that over encoder_ms. images_per_s: its inverse, one image at a time.
        affinity_overhead: the whole path with the affinity tower, over encoder_ms; affinity_ms: that tower's forward.
        zegclip_overhead: ZegCLIP's tower with prompts and decoder, 20 labels, over encoder_ms.
        shape_ms: patch logits to pixel classes; pamr_ms, pamr_present_ms: PAMR at full resolution on the same classes,
            and on the six that are present; shape_speedup, shape_speedup_present: these over shape_ms.
        one_stage_speedup_20, _50, _100: from pixels to regions with that many given proposals, each cropped and
            encoded, over image_to_regions_ms; one_stage_speedup is that of 100.
        labels_N_overhead, megapixels_N_overhead: image_to_regions over encoder, by labels and by size of the image.
        labels_20_to_40: relative increase from 20 to 40 labels.
        cache_hit_ms: a cached embedding; cache_hit_speedup: embedding the image over that.
        regions: how many there were. memory_mb: peak of the GPU, or of the process.
        model, weights, picture, device, threads: what it was measured with.
    """
    with tempfile.TemporaryDirectory(prefix="zm-e-") as folder, console.status("random weights ...") as status:
        model = random_weights(Path(folder), size.model)
        encoder = Encoder(model, device=device, short_side=size.height)
        beside = None
        if affinity_tower:
            beside = Encoder(model, device=device, short_side=size.height, affinity_tower=affinity_tower)
        status.update("bare model ...")
        bare = _bare_tower(model, encoder.device, (size.height, size.width))
        tower = _bare_tower(model, encoder.device, None)
        crops = Crops(tower, encoder.native_size, encoder.embed_texts([f"thing {k}" for k in range(_USUAL_LABELS)]))
    bench = _Bench(encoder, size, console, beside)
    facts: dict[str, Figure] = {
        "model": size.model, "weights": "random", "picture": f"{size.width}x{size.height}",
        "device": str(encoder.device), "threads": torch.get_num_threads(),
    }  # fmt: skip
    return {**facts, **bench.whole(bare), **bench.stages(crops), **bench.growth(bare), "memory_mb": _memory_mb()}


class _Bench:
    """Holds the model, the same with an affinity tower (or None), and the emulated image."""

    def __init__(self, encoder: Encoder, size: EngineSize, console: Console, beside: Encoder | None) -> None:
        self._segmenter = Segmenter(encoder)
        self._beside = None if beside is None else Segmenter(beside)
        self._size = size
        self._console = console
        self._drawing = draw(size.height, size.width)
        self._emulated = emulate(self._drawing, _USUAL_LABELS, encoder.device)

    def whole(self, bare: Callable[[], object]) -> dict[str, Figure]:
        """Time the forward, the whole path, the outline stage and the cache."""
        shown, logits = self._emulated, self._emulated.head.patch_logits
        size = (shown.image.shape[0], shown.image.shape[1])
        cache = EmbeddingCache(self._segmenter)
        cache.embed([shown.image])
        times = time_in_turns(
            {
                "encoder": bare,
                "whole": lambda: self._regions(shown),
                "zegclip": self._zegclip(),
                "shape": lambda: pixel_classes(logits, size, shown.image),
                "embed": lambda: self._segmenter.embed([shown.image]),
                "hit": lambda: cache.embed([shown.image]),
                **self._with_tower(shown),
            },
            turns=self._size.turns, console=self._console, title="pixels to regions",
        )  # fmt: skip
        affinity: dict[str, Figure] = {}
        if self._beside is not None:
            affinity = {"affinity_overhead": times.ratio("beside", "encoder"), "affinity_ms": times.ms("affinity")}
        return {
            **affinity,
            "encoder_ms": times.ms("encoder"), "image_to_regions_ms": times.ms("whole"),
            "overhead": times.ratio("whole", "encoder"), "zegclip_overhead": times.ratio("zegclip", "encoder"),
            "images_per_s": 1000 / times.ms("whole"),
            "shape_ms": times.ms("shape"), "cache_hit_ms": times.ms("hit"),
            "cache_hit_speedup": times.ratio("embed", "hit"), "regions": len(self._regions(shown)),
        }  # fmt: skip

    def _with_tower(self, shown: EmulatedPicture) -> dict[str, Callable[[], object]]:
        """The whole path with the affinity tower, and that tower alone; nothing without one."""
        beside = self._beside
        tower = None if beside is None else beside.encoder.affinity_tower
        if tower is None:
            return {}
        patch = self._segmenter.encoder.patch
        rows, columns = tower.grid((round(self._size.height / patch), round(self._size.width / patch)))
        pixels = torch.zeros(1, 3, rows * tower.patch, columns * tower.patch, dtype=torch.uint8)
        return {"beside": lambda: self._regions(shown, beside), "affinity": lambda: tower.features(pixels)}

    def _zegclip(self) -> Callable[[], object]:
        """ZegCLIP's network on prepared pixels and the usual labels: the tower with prompts, and the decoder."""
        encoder = self._segmenter.encoder
        width = encoder.embed_texts(["thing"]).shape[1]
        tower = self._segmenter.towers.get(TowerConfig())
        network = ZegclipNetwork(small_zegclip(encoder), tower, width).to(encoder.device).eval()
        pixels = torch.zeros(1, 3, self._size.height, self._size.width, device=encoder.device)
        labels = torch.ones(_USUAL_LABELS, width, device=encoder.device)
        return torch.inference_mode()(lambda: network(pixels, labels))

    def stages(self, crops: Crops) -> dict[str, Figure]:
        """Time one stage against two, and the outline stage against PAMR."""
        shown, logits = self._emulated, self._emulated.head.patch_logits
        size = (shown.image.shape[0], shown.image.shape[1])
        present = torch.cat([logits[:PRESENT], logits[-1:]])
        two_stage: dict[str, Callable[[], object]] = {
            f"two_{count}": _bound(self._regions_of, crops, proposals(count, *size)) for count in _PROPOSALS
        }
        times = time_in_turns(
            {
                "whole": lambda: self._regions(shown), **two_stage,
                "shape": lambda: pixel_classes(logits, size, shown.image),
                "pamr": lambda: pamr(logits, shown.image, step=1, dilations=FULL_DILATIONS),
                "present": lambda: pamr(present, shown.image, step=1, dilations=FULL_DILATIONS),
            },
            turns=self._size.slow_turns, console=self._console, title="baselines", warm_up=False,
        )  # fmt: skip
        speedups = {f"one_stage_speedup_{count}": times.ratio(f"two_{count}", "whole") for count in _PROPOSALS}
        return {
            "one_stage_speedup": speedups[f"one_stage_speedup_{_PROPOSALS[-1]}"], **speedups,
            "pamr_ms": times.ms("pamr"), "shape_speedup": times.ratio("pamr", "shape"),
            "pamr_present_ms": times.ms("present"), "shape_speedup_present": times.ratio("present", "shape"),
        }  # fmt: skip

    def growth(self, bare: Callable[[], object]) -> dict[str, Figure]:
        """Time more labels and more pixels. Embedding does not depend on the labels: it is timed once a turn."""
        device = self._emulated.head.patch_logits.device
        by_labels = {labels: emulate(self._drawing, labels, device) for labels in _LABELS}
        (embedding,) = self._segmenter.embed([self._drawing.image])
        larger = {f"{size:g}": self._of_size(size) for size in _MEGAPIXELS}
        times = time_in_turns(
            {
                "encoder": bare,
                "embed": lambda: self._segmenter.embed([self._drawing.image]),
                **{f"labels_{n}": _bound(self._segment, embedding, one) for n, one in by_labels.items()},
                **{f"megapixels_{n}": _bound(self._regions, one) for n, one in larger.items()},
            },
            turns=self._size.turns, console=self._console, title="growth",
        )  # fmt: skip
        figures: dict[str, Figure] = {
            f"labels_{n}_overhead": times.total_ratio(["embed", f"labels_{n}"], "encoder") for n in by_labels
        }
        figures.update({f"megapixels_{n}_overhead": times.ratio(f"megapixels_{n}", "encoder") for n in larger})
        return {**figures, "labels_20_to_40": _added(times, "labels_20", "labels_40")}

    def _of_size(self, megapixels: float) -> EmulatedPicture:
        height = round((megapixels * 1e6 / self._size.shrink * 3 / 4) ** 0.5)
        return emulate(draw(height, round(height * 4 / 3)), _USUAL_LABELS, self._emulated.head.patch_logits.device)

    def _regions(self, shown: EmulatedPicture, segmenter: Segmenter | None = None) -> list[dict[str, Any]]:
        (embedding,) = (segmenter or self._segmenter).embed([shown.image])
        return self._segment(embedding, shown)

    def _regions_of(self, crops: Crops, given: Proposals) -> list[dict[str, Any]]:
        """Regions by two stages: one for each class, which is the cheapest."""
        classes, labels = crops.pixel_classes(self._emulated.image, given), self._emulated.vocabulary.labels
        present = [k for k in np.unique(classes) if k < len(labels)]
        return encode_segments([LabelSegment(labels[k], classes == k, 1.0) for k in present]).regions

    def _segment(self, embedding: Any, shown: EmulatedPicture) -> list[dict[str, Any]]:
        found = self._segmenter.segment(embedding, shown.vocabulary, shown.image, head=shown.head)
        return encode_segments(found.segments).regions


def _added(times: Timings, fewer: str, more: str) -> float:
    """Relative increase of the whole path from fewer labels to more."""
    return times.total_ratio(["embed", more], "encoder") / times.total_ratio(["embed", fewer], "encoder") - 1


def _bound(function: Callable[..., object], *arguments: object) -> Callable[[], object]:
    return lambda: function(*arguments)


def _bare_tower(model: str, device: torch.device, size: tuple[int, int] | None) -> Any:
    """open_clip's image tower as it is; for an image size in pixels, a function without arguments that runs it."""
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
