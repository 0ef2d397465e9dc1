"""Do masks follow outlines? Refiners on photographs with true masks, fed with coarse logits emulated from the truth.

Figures are paired: the gain in boundary F within 2 pixels over bilinear upsampling of the same logits on the same
photograph. As a control each refiner also runs with a photograph of another set in place of the right one: a gain that
remains does not come from the image.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from torch import Tensor

from plugin_config.errors import EnvironmentBroken
from plugin_config.settings import Settings
from worker.lab.charts import line_chart
from worker.lab.evaluation.baselines import bilinear, guided_filter, oracle_fusion, pamr
from worker.lab.evaluation.photographs import PatchEvidence, Photograph, emulate_evidence, read_set
from worker.lab.metrics import boundary_f
from worker.segmentation.encoders.self_supervised_vit import SelfSupervisedViT
from worker.segmentation.encoders.tiling import Tiling, cut_windows
from worker.segmentation.metrics import VOID, Confusion, confusion, mean_iou
from worker.segmentation.outlines.refinement import ADAPTIVE, SPECTRAL, Method, refine_logits
from worker.segmentation.outlines.spectral import eigen_masks

MEANING = "masks on photographs with drawn truth: do they follow the outline?"
Refiner = Callable[[Tensor, NDArray[np.uint8]], Tensor]
Candidates = Callable[[NDArray[np.uint8]], NDArray[np.bool_]]

PLAIN, OURS, ORACLE = "bilinear", "zeromask", "oracle (sees the truth)"
_LEVELS: Mapping[str, tuple[float, float]] = {"L1": (0.80, 0.02), "L2": (0.65, 0.15)}
_HALVINGS, _NOISIEST = 9, 2.0
_CLASSES = 256  # that an 8-bit mask file can number
_BASELINES: Mapping[str, Refiner] = {"guided filter": guided_filter, "PAMR": pamr}
ABLATIONS: Mapping[str, Method] = {
    "no eigenvectors": Method(eigenvectors=0),
    "eigenvectors always": SPECTRAL,
    "5 eigenvectors": Method(eigenvectors=5),
    "no propagation": Method(propagation=False),
    "no guided step": Method(guided=False),
    "trust 0.01": Method(trust=0.01),
    "trust 0.1": Method(trust=0.1),
    "trust 1": Method(trust=1.0),
}


@dataclass(frozen=True)
class RefinerResult:
    """One refiner on one set at one level of noise, paired with bilinear upsampling photograph by photograph.

    Attributes:
        miou: over all pixels of the set.
        boundary_f: mean over photographs, within 2 pixels.
        gain, error, worst: mean paired gain in boundary F, its standard error, and the gain of the worst photograph.
        stranger: mean gain with a photograph of another set in place of the right one; None where there is one set.
        ms: median milliseconds per photograph.
    """

    set: str
    level: str
    refiner: str
    photographs: int
    miou: float
    boundary_f: float
    gain: float
    error: float
    worst: float
    stranger: float | None
    ms: float


@dataclass(frozen=True)
class PhotographScores:
    """Scores of one refiner on a set of n photographs.

    Attributes:
        miou: over all pixels of the set.
        own: (n,) boundary F.
        stranger: (n,) boundary F with photographs of another set in place of the right ones; None where there is none.
        ms: median milliseconds per photograph.
    """

    miou: float
    own: NDArray[np.float64]
    stranger: NDArray[np.float64] | None
    ms: float


def add_arguments(parser: argparse.ArgumentParser, settings: Settings) -> None:
    """Add the options of this protocol."""
    parser.add_argument("--photos", type=Path, nargs="+", required=True, metavar="DIR", help="sets; two for a control")
    parser.add_argument("--part", default="test", help="of each set's split.json (default: %(default)s)")
    parser.add_argument("--limit", type=int, default=20, help="photographs of each set (default: %(default)s)")
    parser.add_argument("--levels", nargs="+", choices=tuple(_LEVELS), default=list(_LEVELS), help="of noise")
    parser.add_argument("--ablations", action="store_true", help="also without parts of the method, and the oracle")
    parser.add_argument("--tower", help="also run with this ViT of timm, its name or NAME:FILE: as the "
                        "product does with ZEROMASK_AFFINITY_TOWER, and with its keys")  # fmt: skip
    parser.add_argument("--output-dir", type=Path, help="write refine.json and a chart of the gain per photograph here")


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Measure and report; the table (or one JSON line) on stdout, progress on stderr."""
    sets = {folder.name: read_set(folder, options.part, options.limit) for folder in options.photos}
    refiners: dict[str, Refiner] = {PLAIN: bilinear, **_BASELINES, OURS: partial(refine_logits, method=ADAPTIVE)}
    if options.ablations:
        refiners |= {name: partial(refine_logits, method=method) for name, method in ABLATIONS.items()}
    candidates: Candidates = eigen_masks
    if options.tower:
        tower = SelfSupervisedViT(options.tower)
        refiners["zeromask, with the tower"] = partial(_with_tokens, tower, method=ADAPTIVE)
        refiners["eigenvectors of tokens"] = partial(_with_tokens, tower, method=SPECTRAL)
        refiners["eigenvectors of keys"] = partial(_with_keys, tower)
        candidates = partial(_paper_masks, tower)
    oracle = candidates if options.ablations or options.tower else None
    rows, gains = measure(sets, refiners, options.levels, oracle=oracle)
    sys.stdout.write(json.dumps({"rows": [asdict(row) for row in rows]}) + "\n" if options.json else table(rows))
    if options.output_dir is not None:
        write(options.output_dir, rows, gains)
    return 0


def measure(
    sets: Mapping[str, Sequence[Photograph]],
    refiners: Mapping[str, Refiner],
    levels: Sequence[str],
    *,
    oracle: Candidates | None,
) -> tuple[list[RefinerResult], dict[str, NDArray[np.float64]]]:
    """Run refiners, and the oracle where its candidates are given, on every set and level.

    Args:
        sets: photographs by name of the set.
        refiners: by name; the others are paired with the first.
        levels: of noise, keys of _LEVELS.
        oracle: makes the candidate masks of the oracle; None = no oracle.

    Returns:
        a row for each set, level and refiner, and the gain of each photograph by "set level" for OURS.
    """
    rows: list[RefinerResult] = []
    gains: dict[str, NDArray[np.float64]] = {}
    names = list(sets)
    for place, (name, photos) in enumerate(sets.items()):
        others = sets[names[(place + 1) % len(names)]] if len(names) > 1 else []
        seen = [emulate_evidence(photo, seed=seed) for seed, photo in enumerate(photos)]
        for level in levels:
            sigma = calibrate(photos, seen, *_LEVELS[level])
            scores: dict[str, PhotographScores] = {}
            for refiner, refine in refiners.items():
                title = f"{name} {level} {refiner}"
                scores[refiner] = evaluate_refiner(refine, photos, seen, sigma, others, title=title)
            if oracle is not None:
                scores[ORACLE] = evaluate_oracle(photos, seen, sigma, oracle)
            plain = scores[next(iter(refiners))]
            rows += [_row(name, level, refiner, own, plain) for refiner, own in scores.items()]
            if OURS in scores:
                gains[f"{name} {level}"] = scores[OURS].own - plain.own
    return rows, gains


def calibrate(
    photos: Sequence[Photograph], seen: Sequence[PatchEvidence], target: float, below_ceiling: float
) -> float:
    """Find the noise at which bilinear upsampling has the target mIoU, or `below_ceiling` less than without noise."""

    def plain_miou(sigma: float) -> float:
        total = np.zeros((_CLASSES, _CLASSES), dtype=np.int64)
        for photo, evidence in zip(photos, seen, strict=True):
            found = bilinear(evidence.logits(sigma), photo.image).argmax(dim=0).numpy()
            _add(total, found, photo)
        return mean_iou(total)

    target = min(target, plain_miou(0.0) - below_ceiling)
    low, high = 0.0, _NOISIEST
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if plain_miou(middle) > target else (low, middle)
    return low


def evaluate_refiner(
    refine: Refiner, photos: Sequence[Photograph], seen: Sequence[PatchEvidence], sigma: float,
    others: Sequence[Photograph], *, title: str,
) -> PhotographScores:  # fmt: skip
    """Run one refiner on a set, and once more with a photograph of another set, resized, in place of each."""
    console = Console(stderr=True)
    total, own, misled, spent = np.zeros((_CLASSES, _CLASSES), dtype=np.int64), [], [], []
    rows = list(enumerate(zip(photos, seen, strict=True)))
    shown = track(rows, title, console=console, disable=not console.is_terminal, transient=True)
    for number, (photo, evidence) in shown:
        coarse = evidence.logits(sigma)
        start = time.perf_counter()
        logits = refine(coarse, photo.image)
        spent.append((time.perf_counter() - start) * 1000)
        found = logits.argmax(dim=0).numpy()
        _add(total, found, photo)
        own.append(boundary_f(found, photo.truth, len(photo.classes), radius=2))
        if others:
            size = (photo.image.shape[1], photo.image.shape[0])
            other = cv2.resize(others[number % len(others)].image, size, interpolation=cv2.INTER_AREA)
            found = refine(coarse, np.asarray(other, dtype=np.uint8)).argmax(dim=0).numpy()
            misled.append(boundary_f(found, photo.truth, len(photo.classes), radius=2))
    stranger = np.array(misled) if others else None
    return PhotographScores(mean_iou(total), np.array(own), stranger, float(np.median(spent)))


def evaluate_oracle(
    photos: Sequence[Photograph], seen: Sequence[PatchEvidence], sigma: float, candidates: Candidates
) -> PhotographScores:
    """Run SAZS's fusion by IoU with the truth on bilinear logits: an upper bound for its 5 eigenvectors."""
    total, own = np.zeros((_CLASSES, _CLASSES), dtype=np.int64), []
    for photo, evidence in zip(photos, seen, strict=True):
        found = oracle_fusion(bilinear(evidence.logits(sigma), photo.image), candidates(photo.image), photo.truth)
        _add(total, found, photo)
        own.append(boundary_f(found, photo.truth, len(photo.classes), radius=2))
    return PhotographScores(mean_iou(total), np.array(own), None, 0.0)


def _with_tokens(
    tower: SelfSupervisedViT, coarse: Tensor, image: NDArray[np.uint8], *, method: Method
) -> Tensor:
    """Refine with the tower's final tokens in the graph of the eigenvectors, as the product does with ADAPTIVE."""
    unit = tower.trained_side / max(image.shape[:2])
    rows, columns = (max(1, round(side * unit)) for side in image.shape[:2])
    (pixels,) = cut_windows([(image, Tiling.single_pass((rows, columns)))], tower.patch)
    return refine_logits(coarse, image, tower.features(pixels[None])[0], method=method)


def _with_keys(tower: SelfSupervisedViT, coarse: Tensor, image: NDArray[np.uint8]) -> Tensor:
    """Refine with the tower's keys in the graph of the eigenvectors, which are then always used."""
    return refine_logits(coarse, image, tower.keys(image), method=SPECTRAL)


def _paper_masks(tower: SelfSupervisedViT, image: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Candidate masks as the paper makes them: affinity of the keys plus the kNN colour term."""
    return eigen_masks(image, keys=tower.keys(image))


def table(rows: Sequence[RefinerResult]) -> str:
    """Format the rows for a person."""
    lines = []
    for previous, row in zip([None, *rows], rows, strict=False):
        if previous is None or (previous.set, previous.level) != (row.set, row.level):
            lines.append(f"\n{row.set} {row.level}: {row.photographs} photographs")
            lines.append(f"  {'':24}  mIoU   BF@2   gain     +-  worst  stranger     ms")
        stranger = "        " if row.stranger is None else f"{row.stranger:+8.3f}"
        lines.append(f"  {row.refiner:24} {row.miou:.3f}  {row.boundary_f:.3f} {row.gain:+.3f}  {row.error:.3f} "
                     f"{row.worst:+.3f}  {stranger} {row.ms:6.0f}")  # fmt: skip
    return "\n".join(lines) + "\n"


def write(folder: Path, rows: Sequence[RefinerResult], gains: Mapping[str, NDArray[np.float64]]) -> None:
    """Write refine.json and refine.svg, a chart of the gains of the photographs in falling order.

    Raises:
        EnvironmentBroken: the folder cannot be written to, or the chart cannot be drawn; refine.json is written by
            then.
    """
    lines = {name: [(float(rank), float(gain)) for rank, gain in enumerate(sorted(of_set, reverse=True))]
             for name, of_set in gains.items()}  # fmt: skip
    title = "Gain of boundary F (2 px) over bilinear, photograph by photograph"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "refine.json").write_text(json.dumps({"rows": [asdict(row) for row in rows]}, indent=1) + "\n")
        if any(len(line) > 1 for line in lines.values()):
            chart = line_chart(lines, title=title, x_label="photographs, best first", y_range=(-0.2, 0.8))
            (folder / "refine.svg").write_text(chart)
    except OSError as error:
        raise EnvironmentBroken(f"folder {folder}", f"it cannot be written to ({error})", "Name another.") from error


def _row(name: str, level: str, refiner: str, scores: PhotographScores, plain: PhotographScores) -> RefinerResult:
    gain = scores.own - plain.own
    error = float(gain.std(ddof=1) / len(gain) ** 0.5) if len(gain) > 1 else 0.0
    stranger = None if scores.stranger is None else round(float((scores.stranger - plain.own).mean()), 4)
    return RefinerResult(name, level, refiner, len(gain), round(scores.miou, 4), round(float(scores.own.mean()), 4),
               round(float(gain.mean()), 4), round(error, 4), round(float(gain.min()), 4), stranger,
               round(scores.ms, 1))  # fmt: skip


def _add(total: Confusion, predicted: NDArray[np.int64], photo: Photograph) -> None:
    """Add a photograph to the confusion of its set, in the set's numbering of classes."""
    classes = np.array(photo.classes)
    truth = np.where(photo.truth == VOID, VOID, classes[photo.truth.clip(0)])
    total += confusion(truth, classes[predicted], _CLASSES)
