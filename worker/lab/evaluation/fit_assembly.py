"""Fit the cut rule and the acceptance rule: `python -m worker.lab.evaluation.fit_assembly`.

It draws scenes that neither training nor the panoptic protocol uses, segments them with the builtin model, and prints
the two rules that `splitting.CUT_RULE` and `acceptance.ACCEPTANCE_MODEL` hold as constants.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from worker.lab.evaluation.panoptic_scenes import FIT_SEED, STUFF_FROM, PanopticScene, panoptic_scene
from worker.lab.metrics import ACCEPTABLE_IOU, iou_table
from worker.segmentation.encoders.encoder import Encoder
from worker.segmentation.instances.acceptance import AcceptanceModel, AcceptanceWeights, SegmentEvidence
from worker.segmentation.instances.assembly import SegmentRequest, assemble
from worker.segmentation.instances.class_map import class_components, clean
from worker.segmentation.instances.splitting import ALIKE_CONTRAST, CutEvidence, CutRule, CutWeights, propose_cut
from worker.segmentation.metrics import mask_iou
from worker.segmentation.segmenter import Segmenter

_GAIN = 0.15  # of IoU summed over the true things: from here on a cut is right; one that gains nothing is wrong
_CUT_SIGNS = {"cut": -1, "neck": -1, "contrast": 1, "edge": 1}
_DECAY = 1e-3
_ROUNDS = 300

Mask = NDArray[np.bool_]
Segmented = tuple[PanopticScene, NDArray[np.int16], NDArray[np.float32]]
"""A scene, (H, W) predicted class of each pixel, (H, W) posterior of that class."""


def main(arguments: Sequence[str]) -> int:
    """Fit both rules and print one JSON line. Returns 0."""
    parser = argparse.ArgumentParser(prog="python -m worker.lab.evaluation.fit_assembly", description=__doc__)
    parser.add_argument("--scenes", type=int, default=240, help="scenes to fit on (default: %(default)s)")
    options = parser.parse_args(arguments)
    segmenter = Segmenter(Encoder("builtin", device="cpu"))
    console = Console(stderr=True)
    numbers = track(range(options.scenes), "drawing", console=console, disable=not console.is_terminal)
    segmented = [class_map(segmenter, panoptic_scene(FIT_SEED, number)) for number in numbers]
    cuts = [example for one in segmented for example in cut_examples(*one[:2])]
    cut_rule = fit_cut_rule(cuts)
    rule = fit_acceptance(list(acceptance_examples(segmented, cut_rule)))
    summary = {"scenes": options.scenes, "cuts": len(cuts), "right": sum(right for _, right in cuts),
               "cut_rule": asdict(cut_rule), "acceptance_rule": asdict(rule)}  # fmt: skip
    sys.stdout.write(json.dumps(summary) + "\n")
    return 0


def class_map(segmenter: Segmenter, drawn: PanopticScene) -> Segmented:
    """Predict the class of each pixel of a drawn scene, and its posterior."""
    image = drawn.scene.image
    scores = segmenter.score(segmenter.embed([image])[0], [(label,) for label in drawn.labels], image)
    return drawn, *segmenter.pixel_classes(scores)


def cut_examples(drawn: PanopticScene, classes: NDArray[np.int16]) -> Iterator[tuple[CutEvidence, bool]]:
    """Yield the evidence of each proposed cut of the things of a scene and of their parts, and whether it is right."""
    tidied = clean(classes, min_area=classes.size // 2000)
    for index in range(STUFF_FROM):
        true = [segment.mask for segment in drawn.truth if segment.index == index]
        for mask, window, _ in class_components(tidied, index, min_area=classes.size // 2000):
            whole = np.zeros(classes.shape, dtype=np.bool_)
            whole[window] = mask
            yield from _examples(whole, true, drawn.scene.image)


def _examples(whole: Mask, true: Sequence[Mask], image: NDArray[np.uint8]) -> Iterator[tuple[CutEvidence, bool]]:
    proposal = propose_cut(whole, image)
    if proposal is None:
        return
    sides = (proposal[0], whole & ~proposal[0])
    gain = _matched(sides, true) - _matched([whole], true)
    if gain >= _GAIN:
        yield proposal[1], True
        for side in sides:
            yield from _examples(side, true, image)
    elif gain <= 0:
        yield proposal[1], False


def _matched(parts: Sequence[Mask], true: Sequence[Mask]) -> float:
    """Sum of the IoUs above 0.5; each true thing has at most one such part."""
    ious = [mask_iou(part, mask) for part in parts for mask in true]
    return sum(iou for iou in ious if iou > 0.5)


def acceptance_examples(
    segmented: Sequence[Segmented], cut_rule: CutRule
) -> Iterator[tuple[SegmentEvidence, bool, bool]]:
    """Yield the evidence of each segment, whether it is stuff, and whether an annotator would accept it."""
    for drawn, classes, confidence in segmented:
        predicted = assemble(classes, confidence, wanted_of(drawn), drawn.scene.image, rule=cut_rule)
        best = iou_table(predicted, drawn.truth).max(axis=1, initial=0.0)
        for segment, iou in zip(predicted, best, strict=True):
            yield segment.evidence, segment.stuff, bool(iou >= ACCEPTABLE_IOU)


def wanted_of(drawn: PanopticScene) -> list[SegmentRequest]:
    """All labels of a scene: things one by one, each stuff as one segment."""
    return [SegmentRequest(index, index >= STUFF_FROM) for index in range(len(drawn.labels))]


def fit_cut_rule(examples: Sequence[tuple[CutEvidence, bool]]) -> CutRule:
    """Fit logistic regressions of whether a cut is right: one for sides that look alike, one for the others."""
    alike = [example for example in examples if example[0].contrast < ALIKE_CONTRAST]
    unlike = [example for example in examples if example[0].contrast >= ALIKE_CONTRAST]
    return CutRule(_cut_weights(alike), _cut_weights(unlike))


def _cut_weights(examples: Sequence[tuple[CutEvidence, bool]]) -> CutWeights:
    """Fit weights whose signs are those of _CUT_SIGNS."""
    rows = np.array([list(vars(evidence).values()) for evidence, _ in examples])
    signs = np.array([_CUT_SIGNS[item.name] for item in fields(CutEvidence)])
    weights, bias = _logistic(rows, np.array([right for _, right in examples]), signs)
    return CutWeights(_round(bias), *(_round(weight) for weight in weights))


def fit_acceptance(examples: Sequence[tuple[SegmentEvidence, bool, bool]]) -> AcceptanceModel:
    """Fit logistic regressions of whether a segment is accepted, for things and for stuff; no weight is negative."""
    return AcceptanceModel(
        *(_acceptance_weights([(row, accepted) for row, is_stuff, accepted in examples if is_stuff == stuff])
          for stuff in (False, True))
    )  # fmt: skip


def _acceptance_weights(examples: Sequence[tuple[SegmentEvidence, bool]]) -> AcceptanceWeights:
    rows = np.array([list(vars(evidence).values()) for evidence, _ in examples])
    accepted = np.array([is_accepted for _, is_accepted in examples])
    weights, bias = _logistic(rows, accepted, np.ones(rows.shape[1], dtype=np.int64))
    return AcceptanceWeights(_round(bias), *(_round(weight) for weight in weights))


def _logistic(
    rows: NDArray[np.float64], right: NDArray[np.bool_], signs: NDArray[np.int64]
) -> tuple[list[float], float]:
    """Weights and bias of least log loss with a small L2 term; a sign of 1 or -1 constrains a weight, 0 does not."""
    mean, spread = rows.mean(axis=0), rows.std(axis=0) + 1e-6
    inputs, target = torch.from_numpy((rows - mean) / spread), torch.from_numpy(right.astype(np.float64))
    bound = torch.from_numpy(signs.astype(np.float64))
    raw = torch.zeros(rows.shape[1] + 1, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([raw], max_iter=_ROUNDS, line_search_fn="strong_wolfe")

    def weights() -> torch.Tensor:
        return torch.where(bound == 0, raw[1:], bound * F.softplus(raw[1:]))

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        odds = inputs @ weights() + raw[0]
        value = F.binary_cross_entropy_with_logits(odds, target) + _DECAY * weights().square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimiser.step(loss)  # type: ignore[no-untyped-call]
    scaled = np.where(rows.std(axis=0) > 0, weights().detach().numpy() / spread, 0.0)  # a constant input has no weight
    return scaled.tolist(), raw[0].item() - float(scaled @ mean)


def _round(value: float) -> float:
    return round(float(value), 4)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
