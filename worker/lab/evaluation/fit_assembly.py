"""Fit the cut rule and the acceptance rule: `python -m worker.lab.evaluation.fit_assembly --photos SET SET`.

It draws scenes that neither training nor the panoptic protocol uses, segments them with the builtin model, and prints
the two rules that `splitting.CUT_RULE` and `acceptance.ACCEPTANCE_MODEL` hold as constants. The cut rule is fitted on
the `train` parts of sets of photographs with instances too, on their true class maps. Every source counts the same,
however many cuts it has.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from worker.lab.evaluation.panoptic_scenes import FIT_SEED, STUFF_FROM, PanopticScene, TrueSegment, panoptic_scene
from worker.lab.evaluation.photographed_things import read_things
from worker.lab.evaluation.photographs import read_set
from worker.lab.metrics import ACCEPTABLE_IOU, iou_table
from worker.segmentation.encoders.encoder import Encoder
from worker.segmentation.instances.acceptance import AcceptanceModel, AcceptanceWeights, SegmentEvidence
from worker.segmentation.instances.assembly import SegmentRequest, assemble
from worker.segmentation.instances.class_map import class_components, clean
from worker.segmentation.instances.cut_evidence import CutEvidence
from worker.segmentation.instances.splitting import ALIKE_CONTRAST, Cut, CutRule, CutWeights, propose_cuts
from worker.segmentation.metrics import mask_iou
from worker.segmentation.segmenter import Segmenter

_GAIN = 0.15  # of IoU summed over the true things: from here on a cut is right
_KEPT = 0.85  # share of each true thing that a right cut leaves on one side
_CUT_SIGNS = {"neck": -1, "neck_squared": -1, "contrast": 1, "edge": 1, "crease": 1, "convexity": 1, "balance": 1}
_DRAWN_SHARE = 4.0  # drawn scenes count as much as four sets of photographs: nothing else shows colours without light
_CAUTION = 0.1, 0.5  # log-odds, of sides alike and unlike: many things have several colours, and a wrong cut spoils two
_MOST_DEPTH = 4  # of cuts of parts of cuts that are examples
_DECAY = 1e-3
_ROUNDS = 300

Mask = NDArray[np.bool_]
Segmented = tuple[PanopticScene, NDArray[np.int16], NDArray[np.float32]]
"""A scene, (H, W) predicted class of each pixel, (H, W) posterior of that class."""

CutExample = tuple[CutEvidence, bool]
"""The evidence of a proposed cut, and whether it is right."""


@dataclass(frozen=True)
class _Trial:
    """One proposed cut: its evidence, whether it is right, whether it is wrong (not all are either), its gain, its
    side."""

    evidence: CutEvidence
    right: bool
    wrong: bool
    gain: float
    side: Mask


def main(arguments: Sequence[str]) -> int:
    """Fit both rules and print one JSON line. Returns 0."""
    parser = argparse.ArgumentParser(prog="python -m worker.lab.evaluation.fit_assembly", description=__doc__)
    parser.add_argument("--scenes", type=int, default=240, help="scenes to fit on (default: %(default)s)")
    parser.add_argument("--photos", type=Path, nargs="*", default=[], metavar="SET", help="sets with instances/, whose "
                        "`train` parts the cut rule is fitted on too")  # fmt: skip
    options = parser.parse_args(arguments)
    segmenter = Segmenter(Encoder("builtin", device="cpu"))
    console = Console(stderr=True)
    numbers = track(range(options.scenes), "drawing", console=console, disable=not console.is_terminal)
    segmented = [class_map(segmenter, panoptic_scene(FIT_SEED, number)) for number in numbers]
    sources = {"drawn": [example for one in segmented for example in scene_examples(*one[:2])]}
    sources |= {folder.name: list(photograph_examples(folder)) for folder in options.photos}
    cut_rule = fit_cut_rule(list(sources.values()), shares=[_DRAWN_SHARE] + [1.0] * len(options.photos))
    rule = fit_acceptance(list(acceptance_examples(segmented, cut_rule)))
    counts = {name: [len(cuts), sum(right for _, right in cuts)] for name, cuts in sources.items()}
    summary = {"scenes": options.scenes, "cuts_and_right": counts, "cut_rule": asdict(cut_rule),
               "acceptance_rule": asdict(rule)}  # fmt: skip
    sys.stdout.write(json.dumps(summary) + "\n")
    return 0


def class_map(segmenter: Segmenter, drawn: PanopticScene) -> Segmented:
    """Predict the class of each pixel of a drawn scene, and its posterior."""
    image = drawn.scene.image
    scores = segmenter.score(segmenter.embed([image])[0], [(label,) for label in drawn.labels], image)
    return drawn, *segmenter.pixel_classes(scores)


def scene_examples(drawn: PanopticScene, classes: NDArray[np.int16]) -> Iterator[CutExample]:
    """Yield the proposed cuts of the things of a drawn scene and of their parts."""
    things = [segment for segment in drawn.truth if segment.index < STUFF_FROM]
    return cut_examples(drawn.scene.image, classes, things)


def photograph_examples(folder: Path) -> Iterator[CutExample]:
    """Yield the proposed cuts of the true class maps of a set's `train` part.

    Raises:
        ImageUnavailable: the folder is not a set with instances.
    """
    for photo in read_set(folder, "train", sys.maxsize):
        things = read_things(folder, photo.stem, photo.truth)
        yield from cut_examples(photo.image, photo.truth.astype(np.int16), things)


def cut_examples(
    image: NDArray[np.uint8], classes: NDArray[np.int16], things: Sequence[TrueSegment]
) -> Iterator[CutExample]:
    """Yield the evidence of each proposed cut of the components of a class map and of their parts, and whether it is
    right."""
    least = classes.size // 2000
    tidied = clean(np.where(classes < 0, np.int16(classes.max() + 1), classes), min_area=least)
    for index in sorted({thing.index for thing in things}):
        for mask, crop, _ in class_components(tidied, index, min_area=least):
            inside = [thing.mask[crop] for thing in things if thing.index == index and _mostly_in(thing.mask, crop)]
            yield from _examples(mask, inside, image[crop], _MOST_DEPTH)


def _mostly_in(mask: Mask, crop: tuple[slice, slice]) -> bool:
    return 2 * np.count_nonzero(mask[crop]) > np.count_nonzero(mask)


def _examples(whole: Mask, true: Sequence[Mask], image: NDArray[np.uint8], depth: int) -> Iterator[CutExample]:
    trials = [_trial(cut, whole, true) for cut in propose_cuts(whole, image)]
    yield from ((trial.evidence, trial.right) for trial in trials if trial.right or trial.wrong)
    best = max((trial for trial in trials if trial.right), key=lambda trial: trial.gain, default=None)
    if best is not None and depth:
        for side in (best.side, whole & ~best.side):
            yield from _examples(side, true, image, depth - 1)


def _trial(cut: Cut, whole: Mask, true: Sequence[Mask]) -> _Trial:
    """Judge a cut: right where it gains IoU, or parts groups of true things without cutting one."""
    sides = cut.side, whole & ~cut.side
    gain = _matched(sides, true) - _matched([whole], true)
    right = gain >= _GAIN or _parts_groups(sides, whole, true)
    return _Trial(cut.evidence, right, not right and gain <= 0, gain, cut.side)


def _parts_groups(sides: tuple[Mask, Mask], whole: Mask, true: Sequence[Mask]) -> bool:
    """Whether each true thing lies on one side, and not all of them on the same."""
    held = []
    for thing in true:
        pixels = np.array([np.count_nonzero(side & thing) for side in sides])
        if 2 * pixels.sum() < np.count_nonzero(thing):
            continue  # of another component
        if pixels.max() < _KEPT * pixels.sum():
            return False
        held.append(int(pixels.argmax()))
    return len(set(held)) == 2


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


def fit_cut_rule(sources: Sequence[Sequence[CutExample]], shares: Sequence[float]) -> CutRule:
    """Fit logistic regressions of whether a cut is right: one for sides that look alike, one for the others.

    The weights have the signs of _CUT_SIGNS. A cut must be more likely right than wrong, by _CAUTION.

    Args:
        sources: examples.
        shares: how much each source counts, however many examples it has.
    """
    weighted = [
        (evidence, right, share / len(cuts))
        for cuts, share in zip(sources, shares, strict=True)
        for evidence, right in cuts
    ]
    alike = [example for example in weighted if example[0].contrast < ALIKE_CONTRAST]
    unlike = [example for example in weighted if example[0].contrast >= ALIKE_CONTRAST]
    return CutRule(_cut_weights(alike, _CAUTION[0]), _cut_weights(unlike, _CAUTION[1]))


def _cut_weights(examples: Sequence[tuple[CutEvidence, bool, float]], caution: float) -> CutWeights:
    rows = np.array([list(vars(evidence).values()) for evidence, _, _ in examples])
    right, share = (np.array([example[k] for example in examples]) for k in (1, 2))
    signs = np.array([_CUT_SIGNS[item.name] for item in fields(CutEvidence)])
    weights, bias = _logistic(rows, right, signs, share)
    return CutWeights(_round(bias - caution), *(_round(weight) for weight in weights))


def fit_acceptance(examples: Sequence[tuple[SegmentEvidence, bool, bool]]) -> AcceptanceModel:
    """Fit logistic regressions of whether a segment is accepted, for things and for stuff; no weight is negative."""
    return AcceptanceModel(
        *(_acceptance_weights([(row, accepted) for row, is_stuff, accepted in examples if is_stuff == stuff])
          for stuff in (False, True))
    )  # fmt: skip


def _acceptance_weights(examples: Sequence[tuple[SegmentEvidence, bool]]) -> AcceptanceWeights:
    names = [item.name for item in fields(AcceptanceWeights) if item.name != "bias"]
    rows = np.array([[getattr(evidence, name) for name in names] for evidence, _ in examples])
    accepted = np.array([is_accepted for _, is_accepted in examples])
    certainty = np.array([evidence.cut_certainty for evidence, _ in examples])
    signs, share = np.ones(rows.shape[1], dtype=np.int64), np.ones(len(rows))
    weights, bias = _logistic(rows, accepted, signs, share, certainty)
    return AcceptanceWeights(_round(bias), *(_round(weight) for weight in weights))


def _logistic(
    rows: NDArray[np.float64], right: NDArray[np.bool_], signs: NDArray[np.int64], share: NDArray[np.float64],
    most: NDArray[np.float64] | None = None,
) -> tuple[list[float], float]:  # fmt: skip
    """Weights and bias of least log loss with a small L2 term.

    Args:
        rows: (N, F) evidence.
        right: (N,).
        signs: (F,): 1 or -1 constrains a weight, 0 does not.
        share: (N,), how much each row counts.
        most: (N,), factor of each probability, at most 1; None = 1.
    """
    mean, spread = rows.mean(axis=0), rows.std(axis=0) + 1e-6
    inputs, target = torch.from_numpy((rows - mean) / spread), torch.from_numpy(right.astype(np.float64))
    bound, counts = torch.from_numpy(signs.astype(np.float64)), torch.from_numpy(share / share.sum())
    factor = torch.log(torch.from_numpy(np.ones(len(rows)) if most is None else most))
    raw = torch.zeros(rows.shape[1] + 1, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([raw], max_iter=_ROUNDS, line_search_fn="strong_wolfe")

    def weights() -> torch.Tensor:
        return torch.where(bound == 0, raw[1:], bound * F.softplus(raw[1:]))

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        odds = inputs @ weights() + raw[0]
        log_right = (F.logsigmoid(odds) + factor).clamp(max=-1e-9)
        losses = -torch.where(target > 0, log_right, torch.log1p(-log_right.exp()))
        value = (losses * counts).sum() + _DECAY * weights().square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimiser.step(loss)  # type: ignore[no-untyped-call]
    scaled = np.where(rows.std(axis=0) > 0, weights().detach().numpy() / spread, 0.0)  # a constant input has no weight
    return scaled.tolist(), raw[0].item() - float(scaled @ mean)


def _round(value: float) -> float:
    return round(float(value), 4)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
