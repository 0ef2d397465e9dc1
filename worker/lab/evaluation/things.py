"""Panoptic, instance and semantic figures of heads on drawn things, seen and unseen labels apart, through the assembly
that serves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from worker.lab.evaluation.panoptic_scenes import TrueSegment
from worker.lab.evaluation.zeroshot import GivenScores, harmonic_mean
from worker.lab.metrics import PanopticEvaluator
from worker.lab.paper_figures import PANOPTIC_FIGURES, PARTS
from worker.lab.things_data import PanopticImage, PanopticSet
from worker.learning.proposals.entering import DecodedProposals, propose
from worker.learning.proposals.proposals import Proposals
from worker.learning.proposals.query_decoder import QueryDecoder
from worker.learning.recipes.pading.adapter import PadingAdapter
from worker.segmentation.class_scores import ClassScores
from worker.segmentation.encoders.encoder import ImageEmbedding
from worker.segmentation.heads import Head, ImageScores, head_things
from worker.segmentation.instances.assembly import LEAST_SCORE, Segment, SegmentRequest, assemble
from worker.segmentation.metrics import VOID, confusion, iou_of_counts
from worker.segmentation.outlines.refinement import ADAPTIVE, Method
from worker.segmentation.segmenter import Segmenter

_SURE = 12.0  # logit of a cell that is in a true mask


@dataclass(frozen=True)
class _Reading:
    """A head whose proposals are known; every pixel has a label, so the background is no answer."""

    adapter: PadingAdapter
    found: DecodedProposals

    @property
    def refinement(self) -> Method:
        """See `worker.segmentation.heads.Head`."""
        return self.adapter.refinement

    def scores(self, image: ImageScores) -> ClassScores:
        """See `worker.segmentation.heads.Head`."""
        return self.adapter.read(self.found, image).without([len(image.words)])

    def things(self, image: ImageScores) -> NDArray[np.int32]:
        """See `worker.segmentation.heads.ThingHead`."""
        return self.adapter.numbers(self.found, image)


class ThingsEvaluator:
    """Judges classifiers of proposals on the test images of a data set. Images, embeddings and proposals are kept from
    one to the next.

    Args:
        segmenter: the model.
        decoder: whose proposals are classified.
        data: labels and images.
        limit: most images; 0 = all.
    """

    def __init__(self, segmenter: Segmenter, decoder: QueryDecoder, data: PanopticSet, *, limit: int = 0) -> None:
        self._segmenter, self.decoder, self.data = segmenter, decoder, data
        self._count = min(limit or len(data.test), len(data.test))
        self._classes = segmenter.classes(data.words)
        self._seen: dict[int, tuple[PanopticImage, ImageEmbedding, DecodedProposals]] = {}

    def figures(
        self, adapter: PadingAdapter | None, *, oracle: bool = False,
        progress: Callable[[Iterable[int]], Iterable[int]] = iter,
    ) -> dict[str, dict[str, float | None]]:  # fmt: skip
        """Measure a head.

        Args:
            adapter: None = training-free.
            oracle: its classifier reads true masks, each with the vector of the proposal that fits it best.
            progress: wraps the numbers of the images.

        Returns:
            For "seen", "unseen" and "hm" the figures of `PANOPTIC_FIGURES`, in [0, 1]; None where no
            image shows such a label.

        Raises:
            LearningError: the adapter gives no usable scores.
        """
        data, count = self.data, len(self.data.labels)
        evaluator = PanopticEvaluator(count, data.things)
        table = np.zeros((count + 1, count + 1), dtype=np.int64)
        for number in progress(range(self._count)):
            one, _, _ = self.look(number)
            classes, segments = self.segments(number, adapter, oracle=oracle)
            known = one.truth != VOID
            kept = [TrueSegment(segment.index, segment.mask & known) for segment in segments]
            scores = [segment.score for segment, part in zip(segments, kept, strict=True) if part.mask.any()]
            evaluator.add([part for part in kept if part.mask.any()], scores, one.segments)
            table += confusion(one.truth, classes, count + 1)
        ious = iou_of_counts(np.diagonal(table), table.sum(axis=1), table.sum(axis=0))
        found = {"seen": _means(evaluator, ious, data.seen), "unseen": _means(evaluator, ious, data.unseen)}
        found["hm"] = {name: _harmonic(found["seen"][name], found["unseen"][name]) for name in PANOPTIC_FIGURES}
        return {part: {name: _rounded(found[part][name]) for name in PANOPTIC_FIGURES} for part in PARTS}

    def look(self, number: int) -> tuple[PanopticImage, ImageEmbedding, DecodedProposals]:
        """A test image, its embedding and its proposals."""
        if number not in self._seen:
            one = self.data.test[number]
            found = propose(one.image, self.decoder, self._segmenter)
            self._seen[number] = one, self._segmenter.embed([one.image])[0], found
        return self._seen[number]

    def segments(
        self, number: int, adapter: PadingAdapter | None, *, oracle: bool = False
    ) -> tuple[NDArray[np.int16], list[Segment]]:
        """The (H, W) class map and the segments of a test image, as `figures` judges them."""
        one, embedding, found = self.look(number)
        image = self._segmenter.score(embedding, self.data.words, one.image, classes=self._classes)
        head: Head
        if adapter is None:
            head = GivenScores(image.zero_shot.without([len(self.data.labels)]), ADAPTIVE)
        else:
            head = _Reading(adapter, true_proposals(found, one) if oracle else found)
        classes, confidence = self._segmenter.pixel_classes(image, head)
        requests = [SegmentRequest(k, stuff=k not in self.data.things) for k in range(len(self.data.labels))]
        segments = assemble(classes, confidence, requests, one.image, things=head_things(head, image))
        return classes, [segment for segment in segments if segment.score >= LEAST_SCORE]


def true_proposals(found: DecodedProposals, one: PanopticImage) -> DecodedProposals:
    """The true masks of an image, each with the vector of the proposal whose mask has the largest IoU with it."""
    truth = torch.from_numpy(np.stack([segment.mask for segment in one.segments])).float().flatten(1)
    drawn = (found.proposals.at_pixels((one.truth.shape[0], one.truth.shape[1])) > 0).float().flatten(1).to(truth)
    both = truth @ drawn.T
    best = (both / (truth.sum(dim=1)[:, None] + drawn.sum(dim=1) - both).clamp_min(1)).argmax(dim=1)
    best = best.to(found.logits.device)
    masks = torch.where(truth.reshape(-1, *one.truth.shape) > 0, _SURE, -_SURE).to(found.proposals.masks.device)
    return DecodedProposals(Proposals(masks, found.proposals.vectors[best]), found.logits[best])


def _means(evaluator: PanopticEvaluator, ious: NDArray[np.float64], labels: Sequence[int]) -> dict[str, float | None]:
    """Class means over some labels, those that no image shows left out; None with none left."""
    shown = [k for k in labels if evaluator.counts[k].true]
    rows: list[dict[str, float]] = [evaluator.counts[k].figures() for k in shown]
    precisions = [evaluator.class_precisions(k)["ap50"] for k in shown if k in evaluator.things]
    values: dict[str, Any] = {name: [row[name] for row in rows] for name in ("pq", "sq", "rq")}
    values |= {"ap50": precisions, "miou": [float(ious[k]) for k in shown]}
    return {name: float(np.mean(found)) if found else None for name, found in values.items()}


def _harmonic(seen: float | None, unseen: float | None) -> float | None:
    return None if seen is None or unseen is None else harmonic_mean(seen, unseen)


def _rounded(figure: float | None) -> float | None:
    return None if figure is None else round(figure, 4)
