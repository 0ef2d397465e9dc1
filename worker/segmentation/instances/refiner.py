"""The hook for models of the SAM family, which may redraw the masks of things.

No such model is shipped, and none is loaded unless ZEROMASK_REFINER names one that is installed. As in Trident (Shi et
al., ICCV 2025), a redrawn mask is accepted only if it overlaps the mask it was prompted with and its predicted IoU is
high; otherwise the original mask stays.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import entry_points
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from plugin_config.errors import ModelUnavailable, SettingsError
from worker.segmentation.instances.assembly import Segment

log = logging.getLogger(__name__)

GROUP = "zeromask.refiners"
"""Entry points of this group are functions from a device ("auto", "cpu", "cuda:0") to a MaskRefiner."""

_MAX_POINTS = 3
_MAX_LOGIT = 10.0


@dataclass(frozen=True)
class Prompt:
    """A prompt for one thing, in pixels of the image.

    Attributes:
        logits: (H, W) float32 in [-10, 10], above 0 inside the mask of the thing.
        box: (left, top, right, bottom) float, half-open, around the mask.
        points: (n, 2) float32 x and y of one to three points deep inside the mask, or of all the clicks inside.
        negatives: (n, 2) float32 x and y of clicks outside of the thing; none where nobody clicked.
    """

    logits: NDArray[np.float32]
    box: tuple[float, float, float, float]
    points: NDArray[np.float32]
    negatives: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 2), dtype=np.float32))


@dataclass(frozen=True)
class Redrawn:
    """A refiner's answer.

    Attributes:
        mask: (H, W) bool.
        iou: predicted IoU of that mask, in [0, 1].
    """

    mask: NDArray[np.bool_]
    iou: float


class RefinerSession(Protocol):
    """One image that the refiner has encoded."""

    def redraw(self, prompt: Prompt) -> Redrawn | None:
        """Predict the mask of the prompted thing; None if there is none."""


class MaskRefiner(Protocol):
    """A model that predicts the mask of a prompted thing."""

    def look(self, image: NDArray[np.uint8]) -> RefinerSession:
        """Encode an image, (H, W, 3) uint8 RGB; the expensive part, once per image."""


@dataclass(frozen=True)
class RefinerThresholds:
    """When a redrawn mask replaces the original one.

    Attributes:
        min_agreement: least IoU with the original; below it the refiner has drawn another thing, or a part.
        min_predicted_iou: least IoU that the refiner predicts.
        max_overlap: most of it that may lie on other things, as a share; that part is removed.
    """

    min_agreement: float = 0.7
    min_predicted_iou: float = 0.8
    max_overlap: float = 0.1


REFINER_THRESHOLDS = RefinerThresholds()


def load_refiner(name: str, *, device: str = "auto") -> MaskRefiner | None:
    """Load the refiner that an installed package offers under a name.

    Args:
        name: of an entry point; empty = none.
        device: "auto", "cpu", "cuda" or "cuda:N".

    Returns:
        The refiner; None without a name.

    Raises:
        SettingsError: no installed package offers it.
        ModelUnavailable: it is offered but does not load.
    """
    if not name:
        return None
    offered = {point.name: point for point in entry_points(group=GROUP)}
    if name not in offered:
        installed = ", ".join(sorted(offered)) or "none"
        remedy = f"Install a package with an entry point in the group {GROUP} (installed: {installed}), or unset it."
        raise SettingsError("setting ZEROMASK_REFINER", f"names {name!r}, which is not installed", remedy)
    try:
        refiner: MaskRefiner = offered[name].load()(device)
    except (ImportError, AttributeError, OSError, RuntimeError, ValueError) as error:
        raise ModelUnavailable(f"refiner {name!r}", f"does not load ({error})", "Repair or unset it.") from error
    return refiner


def refine_things(
    segments: Sequence[Segment],
    confidence: NDArray[np.float32],
    image: NDArray[np.uint8],
    refiner: MaskRefiner,
    thresholds: RefinerThresholds = REFINER_THRESHOLDS,
) -> list[Segment]:
    """Let a refiner redraw things, the largest first, without making any segments overlap.

    Other things keep their pixels; stuff gives up the pixels of a redrawn thing and is not redrawn itself.

    Args:
        segments: as `assemble` gives them.
        confidence: (H, W) float32 posterior of each pixel's class.
        image: (H, W, 3) uint8 RGB.
        refiner: the model.
        thresholds: when a redrawn mask is accepted.

    Returns:
        The segments in their order; score and evidence stay those of the original masks.
    """
    found = list(segments)
    things = [k for k, segment in enumerate(found) if not segment.stuff]
    things.sort(key=lambda k: -int(np.count_nonzero(found[k].mask)))
    if not things:
        return found
    session, accepted_count = refiner.look(image), 0
    for number in things:
        original = found[number]
        redrawn = session.redraw(build_prompt(original.mask, confidence))
        others = [other.mask for k, other in enumerate(found) if k != number and not other.stuff]
        accepted = None if redrawn is None else accept(original.mask, redrawn, others, thresholds)
        if accepted is None:
            continue
        accepted_count += 1
        found[number] = replace(original, mask=accepted)
        for k, other in enumerate(found):  # a thing lies on top of stuff, but belongs to its own class drawn as stuff
            if other.stuff and other.index != original.index:
                found[k] = replace(other, mask=other.mask & ~accepted)
    log.info("refiner: %d of %d things redrawn", accepted_count, len(things))
    return found


def accept(
    original: NDArray[np.bool_],
    redrawn: Redrawn,
    others: Sequence[NDArray[np.bool_]],
    thresholds: RefinerThresholds = REFINER_THRESHOLDS,
) -> NDArray[np.bool_] | None:
    """Decide whether a redrawn mask replaces the original one.

    Args:
        original: (H, W) bool, the mask that was prompted with.
        redrawn: the refiner's answer.
        others: (H, W) bool masks of the other things.
        thresholds: when it is accepted.

    Returns:
        (H, W) bool, the redrawn mask without the pixels of other things; None if the original stays.
    """
    if redrawn.iou < thresholds.min_predicted_iou or redrawn.mask.shape != original.shape or not redrawn.mask.any():
        return None
    free = redrawn.mask.copy()
    for other in others:
        free &= ~other
    if np.count_nonzero(free) < (1 - thresholds.max_overlap) * np.count_nonzero(redrawn.mask):
        return None
    agreement = np.count_nonzero(free & original) / np.count_nonzero(free | original)
    return free if agreement >= thresholds.min_agreement else None


def build_prompt(mask: NDArray[np.bool_], confidence: NDArray[np.float32]) -> Prompt:
    """Make the prompt for a mask.

    Args:
        mask: (H, W) bool, not empty.
        confidence: (H, W) float32 posterior of each pixel's class.
    """
    posterior = np.clip(confidence, 1e-6, 1 - 1e-6)
    logits = np.clip(np.abs(np.log(posterior / (1 - posterior))), 1e-3, _MAX_LOGIT)
    left, top, width, height = cv2.boundingRect(mask.astype(np.uint8))
    box = (float(left), float(top), float(left + width), float(top + height))
    return Prompt(np.where(mask, logits, -logits).astype(np.float32), box, _deep_points(mask))


def _deep_points(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Find the centres of up to three discs inside the mask, each the largest outside the discs before it."""
    depth = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
    points: list[tuple[int, int]] = []
    while len(points) < _MAX_POINTS:
        row, column = (int(k) for k in np.unravel_index(int(depth.argmax()), depth.shape))
        radius = float(depth[row, column])
        if radius <= 0:
            break
        points.append((column, row))
        cv2.circle(depth, (column, row), max(1, round(1.5 * radius)), 0.0, thickness=-1)
    return np.array(points, dtype=np.float32) + 0.5
