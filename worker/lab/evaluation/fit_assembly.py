"""Fit when to cut things apart and how sure a segment is: `python -m worker.lab.evaluation.fit_assembly`.

It draws scenes that neither training nor the panoptic protocol uses, segments them with the builtin model, and prints
the two rules that `splitting.CUT_RULE` and `acceptance.ACCEPTANCE_RULE` hold as constants. It must not be needed at run
time.
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

from worker.lab.evaluation.crowds import FIT_SEED, STUFF_FROM, Crowd, crowd
from worker.lab.evaluation.panoptic_quality import ACCEPTABLE_IOU, iou_table
from worker.segmentation.encoders.encoder import Encoder
from worker.segmentation.instances.acceptance import AcceptanceRule, AcceptanceWeights, SegmentEvidence
from worker.segmentation.instances.assembly import Wanted, assemble
from worker.segmentation.instances.splitting import ALIKE, CutEvidence, CutRule, CutWeights, propose
from worker.segmentation.instances.tidying import class_parts, tidy
from worker.segmentation.segmenter import Segmenter

_GAIN = 0.15  # IoU, summed over the true things: a cut that brings so much is right, one that brings nothing is wrong
_CUT_SIGNS = {"cut": -1, "neck": -1, "contrast": 1, "edge": 1}
_DECAY = 1e-3
_ROUNDS = 300

Mask = NDArray[np.bool_]
Picture = tuple[Crowd, NDArray[np.int16], NDArray[np.float32]]


def main(arguments: Sequence[str]) -> int:
    """Fit and print one JSON line. Returns 0."""
    parser = argparse.ArgumentParser(prog="python -m worker.lab.evaluation.fit_assembly", description=__doc__)
    parser.add_argument("--scenes", type=int, default=240, help="scenes to fit on (default: %(default)s)")
    options = parser.parse_args(arguments)
    segmenter = Segmenter(Encoder("builtin", device="cpu"))
    console = Console(stderr=True)
    numbers = track(range(options.scenes), "drawing", console=console, disable=not console.is_terminal)
    pictures = [class_map(segmenter, crowd(FIT_SEED, number)) for number in numbers]
    cuts = [example for picture in pictures for example in cut_examples(*picture[:2])]
    cut_rule = fit_cut_rule(cuts)
    rule = fit_acceptance(list(acceptance_examples(pictures, cut_rule)))
    told = {"scenes": options.scenes, "cuts": len(cuts), "right": sum(right for _, right in cuts),
            "cut_rule": asdict(cut_rule), "acceptance_rule": asdict(rule)}  # fmt: skip
    sys.stdout.write(json.dumps(told) + "\n")
    return 0


def class_map(segmenter: Segmenter, asked: Crowd) -> Picture:
    """The crowd, the class of each of its pixels as the model sees it, and the posterior of that."""
    image = asked.scene.image
    scene = segmenter.score(segmenter.embed([image])[0], [(label,) for label in asked.labels], image)
    return asked, *segmenter.pixel_classes(scene)


def cut_examples(asked: Crowd, classes: NDArray[np.int16]) -> Iterator[tuple[CutEvidence, bool]]:
    """Evidence of every cut proposed of the things of a scene, and of their parts, and whether the cut is right."""
    tidied = tidy(classes, smallest=classes.size // 2000)
    for index in range(STUFF_FROM):
        true = [segment.mask for segment in asked.truth if segment.index == index]
        for mask, window, _ in class_parts(tidied, index, smallest=classes.size // 2000):
            whole = np.zeros(classes.shape, dtype=np.bool_)
            whole[window] = mask
            yield from _examples(whole, true, asked.scene.image)


def _examples(whole: Mask, true: Sequence[Mask], image: NDArray[np.uint8]) -> Iterator[tuple[CutEvidence, bool]]:
    found = propose(whole, image)
    if found is None:
        return
    sides = (found[0], whole & ~found[0])
    gain = _matched(sides, true) - _matched([whole], true)
    if gain >= _GAIN:
        yield found[1], True
        for side in sides:
            yield from _examples(side, true, image)
    elif gain <= 0:
        yield found[1], False


def _matched(parts: Sequence[Mask], true: Sequence[Mask]) -> float:
    """Sum of the IoUs above 0.5, of which each true thing has at most one."""
    table = [np.count_nonzero(part & mask) / np.count_nonzero(part | mask) for part in parts for mask in true]
    return sum(iou for iou in table if iou > 0.5)


def acceptance_examples(
    pictures: Sequence[Picture], cut_rule: CutRule
) -> Iterator[tuple[SegmentEvidence, bool, bool]]:
    """Evidence of every segment, whether it is stuff, and whether an annotator would accept it."""
    for asked, classes, confidence in pictures:
        found = assemble(classes, confidence, wanted_of(asked), asked.scene.image, rule=cut_rule)
        best = iou_table(found, asked.truth).max(axis=1, initial=0.0)
        for segment, iou in zip(found, best, strict=True):
            yield segment.evidence, segment.stuff, bool(iou >= ACCEPTABLE_IOU)


def wanted_of(asked: Crowd) -> list[Wanted]:
    """All labels of a crowd: things one by one, stuff whole."""
    return [Wanted(index, index >= STUFF_FROM) for index in range(len(asked.labels))]


def fit_cut_rule(examples: Sequence[tuple[CutEvidence, bool]]) -> CutRule:
    """Logistic regressions of whether a cut is right, one for sides that look alike and one for the others."""
    alike = [example for example in examples if example[0].contrast < ALIKE]
    return CutRule(_cut_weights(alike), _cut_weights([example for example in examples if example[0].contrast >= ALIKE]))


def _cut_weights(examples: Sequence[tuple[CutEvidence, bool]]) -> CutWeights:
    """Each evidence may only count the way it must."""
    rows = np.array([list(vars(evidence).values()) for evidence, _ in examples])
    signs = np.array([_CUT_SIGNS[item.name] for item in fields(CutEvidence)])
    weights, bias = _logistic(rows, np.array([right for _, right in examples]), signs)
    return CutWeights(_round(bias), *(_round(weight) for weight in weights))


def fit_acceptance(examples: Sequence[tuple[SegmentEvidence, bool, bool]]) -> AcceptanceRule:
    """Logistic regressions of whether a segment is accepted, rising in every evidence: of things, and of stuff."""
    return AcceptanceRule(
        *(_acceptance_weights([(row, hit) for row, is_stuff, hit in examples if is_stuff == stuff])
          for stuff in (False, True))
    )  # fmt: skip


def _acceptance_weights(examples: Sequence[tuple[SegmentEvidence, bool]]) -> AcceptanceWeights:
    rows = np.array([list(vars(evidence).values()) for evidence, _ in examples])
    weights, bias = _logistic(rows, np.array([hit for _, hit in examples]), np.ones(rows.shape[1], dtype=np.int64))
    return AcceptanceWeights(_round(bias), *(_round(weight) for weight in weights))


def _logistic(
    rows: NDArray[np.float64], right: NDArray[np.bool_], signs: NDArray[np.int64]
) -> tuple[list[float], float]:
    """Weights and bias of least log loss; a sign of 1 or -1 binds a weight to it, 0 leaves it free."""
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
    scaled = np.where(rows.std(axis=0) > 0, weights().detach().numpy() / spread, 0.0)  # what never varies tells nothing
    return scaled.tolist(), raw[0].item() - float(scaled @ mean)


def _round(value: float) -> float:
    return round(float(value), 4)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
