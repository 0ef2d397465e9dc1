"""Are labels segmented whose masks training never showed? One argmax over all labels, judged apart for both kinds."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import track

from plugin_config.errors import LearningError, SettingsError
from plugin_config.settings import Settings
from worker.lab.dense_data import PAIRS, SCENES, WORDS, LabelledImage, ZeroShotSet, drawn_set, photo_set
from worker.lab.metrics import boundary_f, masks_boundary_f
from worker.learning.adapter_files import load_adapter_folder, read_adapter_record
from worker.learning.corrections.class_maps import with_background
from worker.learning.recipes.dense.zegclip_adapter import ZegclipAdapter
from worker.segmentation.class_scores import ClassScores
from worker.segmentation.encoders.encoder import ImageEmbedding
from worker.segmentation.heads import Head, ImageScores, head_scores
from worker.segmentation.metrics import VOID, confusion, iou_of_counts, mask_iou
from worker.segmentation.outlines.refinement import ADAPTIVE, Method
from worker.segmentation.outlines.spectral import eigen_masks
from worker.segmentation.segmenter import Segmenter

MEANING = "labels whose masks training never showed, beside those it did: seen, unseen, hIoU"
SPLITS = {"words": WORDS, "pairs": PAIRS}
INFERENCES: Mapping[str, str] = {
    "outlines": "as the product does it",
    "network": "the scores alone, enlarged",
    "oracle": "sees the truth: the network alone, or an eigenvector mask where that fits a label better",
    "strange": "the outlines of another image: a control",
}
_RADIUS = 2  # pixels, of the boundary F
_LOWERED = (1.0, 2.0, 4.0)  # logits
_LEAKED = " (leaked)"


@dataclass(frozen=True)
class GivenScores:
    """A head whose scores are known, so that one image is looked at once and judged in several ways."""

    given: ClassScores
    refinement: Method

    def scores(self, image: ImageScores) -> ClassScores:
        """See `worker.segmentation.heads.Head`."""
        return self.given


def harmonic_mean(seen: float, unseen: float) -> float:
    """HIoU: 0 where one of them is."""
    return 2 * seen * unseen / (seen + unseen) if seen + unseen else 0.0


def boundary_f2(predicted: NDArray[np.int16], truth: NDArray[np.int16]) -> float:
    """Boundary F within 2 pixels of two class maps (H, W), over all classes that either of them shows."""
    present = np.unique(np.concatenate([predicted.ravel(), truth[truth >= 0]]))
    place = np.full(int(present.max()) + 1, VOID, dtype=np.int64)
    place[present] = np.arange(len(present))
    known = np.where(truth >= 0, place[np.maximum(truth, 0)], VOID)
    # At least three, because of two classes `boundary_f` judges the second alone.
    return boundary_f(place[predicted], known, max(3, len(present)), radius=_RADIUS)


@dataclass(frozen=True)
class ZeroShotFigures:
    """What was measured; all in [0, 1].

    Attributes:
        ious: of each label, pixels pooled over the images; NaN where none shows it.
        unseen: indices of the labels without masks in training.
        bf2: boundary F within 2 pixels, mean over the images.
        images: how many.
        lowered: for each offset by which the scores of seen labels are lowered, seen, unseen and hIoU.
        unseen_alone: mean IoU of the unseen labels where only they can be chosen and judged; None = not measured.
    """

    ious: tuple[float, ...]
    unseen: tuple[int, ...]
    bf2: float
    images: int
    lowered: Mapping[float, tuple[float, float, float]] = field(default_factory=dict)
    unseen_alone: float | None = None

    @property
    def seen_unseen_hiou(self) -> tuple[float, float, float]:
        """Mean IoU of the seen and of the unseen labels, and their harmonic mean."""
        return _means(self.ious, self.unseen)


def _means(ious: Sequence[float], unseen: Sequence[int]) -> tuple[float, float, float]:
    parts = ([ious[k] for k in range(len(ious)) if k not in unseen], [ious[k] for k in unseen])
    seen, new = (float(np.nanmean(part)) if not np.isnan(part).all() else 0.0 for part in parts)
    return seen, new, harmonic_mean(seen, new)


class _Counts:
    """Pixels of each label over all images: right, true and predicted, where the truth is known."""

    def __init__(self, labels: int) -> None:
        self._pixels = np.zeros((3, labels + 1), dtype=np.int64)

    def add(self, truth: NDArray[np.int16], predicted: NDArray[np.int16]) -> None:
        """Count an image whose pixels have one label each."""
        table = confusion(truth, predicted, self._pixels.shape[1])
        self._pixels += [np.diagonal(table), table.sum(axis=1), table.sum(axis=0)]

    def add_masks(self, truth: NDArray[np.int16], masks: Mapping[int, NDArray[np.bool_]]) -> None:
        """Count an image with a mask for each label that occurs."""
        for label, mask in masks.items():
            wanted, found = truth == label, mask & (truth != VOID)
            self._pixels[:, label] += [np.count_nonzero(one) for one in (wanted & found, wanted, found)]

    def ious(self) -> tuple[float, ...]:
        """IoU of each label but the background; NaN where the truth never shows it."""
        return tuple(float(iou) for iou in iou_of_counts(*self._pixels)[:-1])


def _pairs(
    truth: NDArray[np.int16], masks: Mapping[int, NDArray[np.bool_]]
) -> Iterable[tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
    return ((mask, truth == label) for label, mask in masks.items())


def _fit(wanted: NDArray[np.bool_], known: NDArray[np.bool_], mask: NDArray[np.bool_]) -> tuple[float, int]:
    """IoU of a mask with the truth, and minus its wrong pixels."""
    judged = mask & known
    return mask_iou(judged, wanted), -int(np.count_nonzero(judged != wanted))


class ZeroShotEvaluator:
    """Judges heads on the test images of a data set, through the product's own pipeline. Images, embeddings and
    eigenvector masks are kept from one head to the next.

    Args:
        segmenter: the model.
        data: labels and images.
        limit: most images; 0 = all.
    """

    def __init__(self, segmenter: Segmenter, data: ZeroShotSet, *, limit: int = 0) -> None:
        self._segmenter, self._data = segmenter, data
        self._count = min(limit or len(data.test), len(data.test))
        self._classes = segmenter.classes(data.words)
        self._images: dict[int, LabelledImage] = {}
        self._embeddings: dict[int, ImageEmbedding] = {}
        self._masks: dict[int, NDArray[np.bool_]] = {}

    def figures(
        self, head: Head | None, *, inference: str = "outlines", lowered: Sequence[float] = (),
        unseen_alone: bool = False, progress: Callable[[Iterable[int]], Iterable[int]] = iter,
    ) -> ZeroShotFigures:  # fmt: skip
        """Measure a head.

        Args:
            head: None = zero-shot.
            inference: a name in INFERENCES.
            lowered: offsets, in logits, by which the scores of seen labels are lowered: calibrated stacking (Chao et
                al., ECCV 2016) as a curve, for none of them could be chosen without unseen masks.
                With the oracle they are those of the network alone, as is the next.
            unseen_alone: also let only unseen labels be chosen, and judge only their pixels.
            progress: wraps the numbers of the images.

        Raises:
            LearningError: no label has a score, or the head gives no usable ones.
        """
        unseen, count = self._data.unseen, len(self._data.labels)
        total, alone = _Counts(count), _Counts(count)
        curve = {offset: _Counts(count) for offset in lowered}
        boundaries = []
        for number in progress(range(self._count)):
            if number not in self._images:  # drawn only once
                self._images[number] = self._data.test[number]
            one = self._images[number]
            truth = with_background(one.truth, count)
            image, found, refinement = self._scored(number, one, head)
            predict = partial(self._predict, number, image, refinement=refinement, inference=inference)
            predicted = predict(found)
            if inference == "oracle":
                masks = self._oracle(number, one, predicted)
                total.add_masks(truth, masks)
                boundaries.append(masks_boundary_f(_pairs(truth, masks), truth == VOID, radius=_RADIUS))
            else:
                total.add(truth, predicted)
                boundaries.append(boundary_f2(predicted, truth))
            for offset, counts in curve.items():
                counts.add(truth, predict(self._lowered(found, offset)))
            if unseen_alone:
                only = found.without([k for k in range(count + 1) if k not in unseen])
                if bool(only.scored.any()):
                    alone.add(np.where(np.isin(truth, unseen), truth, VOID).astype(np.int16), predict(only))
        return ZeroShotFigures(
            total.ious(), unseen, float(np.mean(boundaries)), self._count,
            {offset: _means(counts.ious(), unseen) for offset, counts in curve.items()},
            _means(alone.ious(), unseen)[1] if unseen_alone else None,
        )  # fmt: skip

    def _scored(self, number: int, one: LabelledImage, head: Head | None) -> tuple[ImageScores, ClassScores, Method]:
        if number not in self._embeddings:
            self._embeddings[number] = self._segmenter.embed([one.image])[0]
        image = self._segmenter.score(self._embeddings[number], self._data.words, one.image, classes=self._classes)
        found = image.zero_shot if head is None else head_scores(head, image)
        if not bool(found.scored[:-1].any()):
            problem = f"model {self._segmenter.encoder.name} can read none of them"
            remedy = "Name another --model, or an --adapter that was trained with text vectors."
            raise LearningError(f"labels of {self._data.name}", problem, remedy)
        if not self._data.has_background:  # every pixel has a label, so the background is no answer
            found = found.without([len(self._data.labels)])
        return image, found, ADAPTIVE if head is None else head.refinement

    def _predict(
        self, number: int, image: ImageScores, found: ClassScores, *, refinement: Method, inference: str
    ) -> NDArray[np.int16]:
        if inference == "strange":
            image = replace(image, image=self._other(number))
        outlines = inference in ("outlines", "strange")
        return self._segmenter.pixel_classes(image, GivenScores(found, refinement), outlines=outlines)[0]

    def _lowered(self, found: ClassScores, offset: float) -> ClassScores:
        logits = found.logits.clone()
        logits[list(self._data.seen)] -= offset
        return ClassScores(logits, found.scored)

    def _oracle(self, number: int, one: LabelledImage, predicted: NDArray[np.int16]) -> dict[int, NDArray[np.bool_]]:
        """SAZS's released fusion, label by label: the network's mask, or the eigenvector mask whose IoU with the TRUTH
        is best. Masks of several labels may overlap, as its classes are judged one at a time.

        As released, the best IoU of one image is enough. Of small things that lowers the IoU pooled over images: a
        large mask that fits a little better adds more wrong pixels than right ones. So it must have fewer wrong ones.
        """
        if number not in self._masks:
            self._masks[number] = eigen_masks(one.image)
        known = one.truth != VOID
        masks = {}
        shown = np.union1d(np.unique(predicted), np.unique(one.truth[known]))
        for label in (int(k) for k in shown if 0 <= k < len(self._data.labels)):
            wanted, own = one.truth == label, predicted == label
            best = max(self._masks[number], key=partial(_fit, wanted, known))
            (iou, right), (own_iou, own_right) = (_fit(wanted, known, mask) for mask in (best, own))
            masks[label] = best if iou > own_iou and right > own_right else own
        return masks

    def _other(self, number: int) -> NDArray[np.uint8]:
        """The next image, at the size of this one."""
        size = self._data.test[number].truth.shape
        other = self._data.test[(number + 1) % len(self._data.test)].image
        return np.asarray(Image.fromarray(other).resize((size[1], size[0])), dtype=np.uint8)


def add_arguments(parser: argparse.ArgumentParser, settings: Settings) -> None:
    """Add the options of this protocol."""
    add = parser.add_argument
    add("--split", choices=tuple(SPLITS), help="of the drawn world: words, or pairs of colour and texture")
    add("--photos", type=Path, metavar="DIR", help="a folder of photographs instead; its test part is judged")
    add("--unseen", default="", metavar="A,B", help="labels of --photos that training never showed")
    add("--model", default=settings.model, help="as the MODEL setting (default: %(default)s)")
    add("--device", default=settings.device, help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    add("--adapter", type=Path, metavar="DIR", help="what `zeromask train` wrote (default: zero-shot)")
    add("--scenes", type=int, default=SCENES, help="drawn scenes to judge (default: %(default)s)")
    add("--inference", choices=tuple(INFERENCES), default="outlines",
        help="; ".join(f"{name}: {meaning}" for name, meaning in INFERENCES.items()))  # fmt: skip
    add("--lowered", type=float, nargs="*", default=None, metavar="OFFSET", help="also with the scores of seen labels "
        f"lowered by these logits (default: {', '.join(f'{one:g}' for one in _LOWERED)} on photographs)")  # fmt: skip


def run(options: argparse.Namespace, settings: Settings) -> int:
    """Measure and print."""
    data = _data(options)
    segmenter = Segmenter.from_settings(settings)
    head = None
    if options.adapter is not None:
        head = load_adapter_folder(options.adapter, segmenter)
        _check_unseen(options.adapter, data)
    console = Console(stderr=True)
    lowered = options.lowered if options.lowered is not None else (_LOWERED if options.photos else ())
    found = ZeroShotEvaluator(segmenter, data).figures(
        head, inference=options.inference, lowered=lowered, unseen_alone=options.photos is not None,
        progress=lambda numbers: track(numbers, "Evaluating", console=console, total=len(data.test),
                                       disable=not console.is_terminal),
    )  # fmt: skip
    summary = as_json(found, data)
    summary |= {"model": settings.model, "adapter": adapter_title(options.adapter, head)}
    summary["inference"] = options.inference
    sys.stdout.write(json.dumps(summary) + "\n" if options.json else table(summary))
    return 0


def adapter_title(folder: Path | None, head: Head | None) -> str:
    """What an adapter is called in print: its folder, and whether its training was told where unseen labels are; ""
    without one.
    """
    leaked = isinstance(head, ZegclipAdapter) and head.leaked
    return f"{folder or ''}{_LEAKED * leaked}"


def leak_note(title: str) -> str:
    """What a headline about unseen labels says of an adapter with this title; "" unless it is leaked."""
    return "; leaked: training knew where these are" if title.endswith(_LEAKED) else ""


def _data(options: argparse.Namespace) -> ZeroShotSet:
    if (options.split is None) == (options.photos is None):
        raise SettingsError("evaluate", "one of --split and --photos is needed", "Give one: --split words.")
    if options.photos is not None:
        return photo_set(options.photos, options.unseen.split(","))
    if options.unseen.strip():
        raise SettingsError("--unseen", "the drawn splits have unseen labels of their own", "Leave it away.")
    if options.scenes < 1:
        raise SettingsError("--scenes", f"{options.scenes} is not above 0", "Give a larger number.")
    return drawn_set(SPLITS[options.split], scenes=options.scenes)


def _check_unseen(folder: Path, data: ZeroShotSet) -> None:
    """An adapter that was shown an unseen label says nothing about unseen labels.

    Raises:
        SettingsError: it was.
    """
    taught = read_adapter_record(folder).training.get("labels", ())
    shown = [label for label in data.unseen_labels if label in taught]
    if shown:
        remedy = "Train one with the same --data and --unseen, or judge it on the split that it was trained for."
        problem = f"was trained with masks of {shown[0]!r}, which is unseen here"
        raise SettingsError(f"adapter {folder}", problem, remedy)


def as_json(found: ZeroShotFigures, data: ZeroShotSet) -> dict[str, Any]:
    """The figures under the keys that `zeromask evaluate` prints."""
    seen, unseen, hiou = (round(value, 4) for value in found.seen_unseen_hiou)
    summary: dict[str, Any] = {
        "split": data.name, "seen": seen, "unseen": unseen, "hiou": hiou, "bf2": round(found.bf2, 4),
        "scenes": found.images, "unseen_labels": data.unseen_labels,
        "per_label": {
            label: None if np.isnan(iou) else round(iou, 4)
            for label, iou in zip(data.labels, found.ious, strict=True)
        },
    }  # fmt: skip
    if found.lowered:
        summary["lowered"] = [
            {"offset": offset, **dict(zip(("seen", "unseen", "hiou"), (round(v, 4) for v in values), strict=True))}
            for offset, values in found.lowered.items()
        ]
    if found.unseen_alone is not None:
        summary["unseen_alone"] = round(found.unseen_alone, 4)
    return summary


def table(summary: Mapping[str, Any]) -> str:
    """Format the figures for a person."""
    lines = [f"{summary['split']}: {summary['scenes']} images, unseen: {', '.join(summary['unseen_labels'])}"
             f"{leak_note(summary.get('adapter', ''))}",
             f"{'':<28} seen  unseen    hIoU    BF@2"]  # fmt: skip
    rows = [("one argmax over all labels", summary)]
    rows += [(f"seen labels lowered by {row['offset']:g}", row) for row in summary.get("lowered", ())]
    for name, row in rows:
        boundary = f"  {row['bf2']:.3f}" if "bf2" in row else ""
        lines.append(f"{name:<27} {row['seen']:.3f}   {row['unseen']:.3f}   {row['hiou']:.3f}{boundary:>8}")
    if "unseen_alone" in summary:
        lines.append(f"{'among the unseen alone':<27} {'':>5}   {summary['unseen_alone']:.3f}")
    return "\n".join(lines) + "\n"
