"""The hook for models of the SAM family: they may redraw a thing's mask, and are believed only where they agree.

Nothing of such a model is shipped or loaded unless ZEROMASK_REFINER names one that is installed. The rule of acceptance
is that of Trident (ICCV 2025): a redrawn mask must overlap the one it started from, and be sure of itself;
otherwise ours stays. It must not know about labels, text or any particular refiner.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import entry_points
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from plugin_config.errors import ModelUnavailable, SettingsError
from worker.segmentation.instances.assembly import Segment

log = logging.getLogger(__name__)

GROUP = "zeromask.refiners"
"""Entry points of this group are factories: `device` ("auto", "cpu", "cuda:0") -> MaskRefiner."""

_POINTS = 3
_LARGEST_LOGIT = 10.0


@dataclass(frozen=True)
class Prompt:
    """What a refiner is told of one thing, in pixels of the image.

    Attributes:
        logits: (H, W) float32, above 0 inside our mask; the larger, the surer. At most 10 either way.
        box: (left, top, right, bottom) float, half-open, around our mask.
        points: (n, 2) float32 x and y of one to three places deep inside it.
    """

    logits: NDArray[np.float32]
    box: tuple[float, float, float, float]
    points: NDArray[np.float32]


@dataclass(frozen=True)
class Redrawn:
    """A refiner's answer: (H, W) bool, and the IoU in [0, 1] it expects of it."""

    mask: NDArray[np.bool_]
    iou: float


class RefinerSession(Protocol):
    """One image, looked at once."""

    def redraw(self, prompt: Prompt) -> Redrawn | None:
        """The mask of the thing prompted for; None when it has none."""


class MaskRefiner(Protocol):
    """A model that draws the mask of what it is prompted for."""

    def look(self, image: NDArray[np.uint8]) -> RefinerSession:
        """The costly half, once per image: (H, W, 3) uint8 RGB."""


@dataclass(frozen=True)
class RefinerRule:
    """When a redrawn mask takes the place of ours.

    Attributes:
        agreement: least IoU with ours; below it the refiner has drawn another thing, or a part.
        sureness: least IoU it expects of itself.
        taken: most of it that may lie on other things; what does is taken off.
    """

    agreement: float = 0.7
    sureness: float = 0.8
    taken: float = 0.1


TRUSTING = RefinerRule()


def load_refiner(name: str, *, device: str = "auto") -> MaskRefiner | None:
    """The refiner that an installed package offers under this name; None for no name.

    Raises:
        SettingsError: no installed package offers it.
        ModelUnavailable: it is offered but does not load.
    """
    if not name:
        return None
    offered = {point.name: point for point in entry_points(group=GROUP)}
    if name not in offered:
        there = ", ".join(sorted(offered)) or "none"
        remedy = f"Install a package with an entry point in the group {GROUP} (installed: {there}), or unset it."
        raise SettingsError("setting ZEROMASK_REFINER", f"names {name!r}, which is not installed", remedy)
    try:
        refiner: MaskRefiner = offered[name].load()(device)
    except (ImportError, AttributeError, OSError, RuntimeError, ValueError) as error:
        raise ModelUnavailable(f"refiner {name!r}", f"does not load ({error})", "Mend it, or unset it.") from error
    return refiner


def refine_things(
    segments: Sequence[Segment],
    confidence: NDArray[np.float32],
    image: NDArray[np.uint8],
    refiner: MaskRefiner,
    rule: RefinerRule = TRUSTING,
) -> list[Segment]:
    """Let a refiner redraw things, the largest first. What did not overlap before does not afterwards.

    Another thing keeps what it has; stuff yields what a redrawn thing takes, and is not redrawn itself.

    Args:
        segments: as `assemble` gives them.
        confidence: (H, W) float32 posterior of each pixel's class.
        image: (H, W, 3) uint8 RGB.
        refiner: what redraws.
        rule: when it is believed.

    Returns:
        The segments in their order; score and evidence stay those of the mask that was prompted with.
    """
    found = list(segments)
    things = [k for k, segment in enumerate(found) if not segment.stuff]
    things.sort(key=lambda k: -int(np.count_nonzero(found[k].mask)))
    if not things:
        return found
    session, believed = refiner.look(image), 0
    for number in things:
        mine = found[number]
        redrawn = session.redraw(prompt_of(mine.mask, confidence))
        others = [other.mask for k, other in enumerate(found) if k != number and not other.stuff]
        accepted = None if redrawn is None else accept(mine.mask, redrawn, others, rule)
        if accepted is None:
            continue
        believed += 1
        found[number] = replace(mine, mask=accepted)
        for k, other in enumerate(found):  # a thing lies on stuff, but its own class drawn as stuff has it too
            if other.stuff and other.index != mine.index:
                found[k] = replace(other, mask=other.mask & ~accepted)
    log.info("refiner: %d of %d things redrawn", believed, len(things))
    return found


def accept(
    mine: NDArray[np.bool_], redrawn: Redrawn, others: Sequence[NDArray[np.bool_]], rule: RefinerRule
) -> NDArray[np.bool_] | None:
    """The redrawn mask without what belongs to other things, (H, W) bool; None where ours is to stay."""
    if redrawn.iou < rule.sureness or redrawn.mask.shape != mine.shape or not redrawn.mask.any():
        return None
    free = redrawn.mask.copy()
    for other in others:
        free &= ~other
    if np.count_nonzero(free) < (1 - rule.taken) * np.count_nonzero(redrawn.mask):
        return None
    agreement = np.count_nonzero(free & mine) / np.count_nonzero(free | mine)
    return free if agreement >= rule.agreement else None


def prompt_of(mask: NDArray[np.bool_], confidence: NDArray[np.float32]) -> Prompt:
    """What a refiner is told of a mask that is not empty, given the posterior of each pixel's class; both (H, W)."""
    sure = np.clip(confidence, 1e-6, 1 - 1e-6)
    logits = np.clip(np.abs(np.log(sure / (1 - sure))), 1e-3, _LARGEST_LOGIT)
    left, top, width, height = cv2.boundingRect(mask.astype(np.uint8))
    box = (float(left), float(top), float(left + width), float(top + height))
    return Prompt(np.where(mask, logits, -logits).astype(np.float32), box, _deep_points(mask))


def _deep_points(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Centres of up to three discs inside the mask, each the largest that does not meet the ones before."""
    depth = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]
    points: list[tuple[int, int]] = []
    while len(points) < _POINTS:
        row, column = (int(k) for k in np.unravel_index(int(depth.argmax()), depth.shape))
        radius = float(depth[row, column])
        if radius <= 0:
            break
        points.append((column, row))
        cv2.circle(depth, (column, row), max(1, round(1.5 * radius)), 0.0, thickness=-1)
    return np.array(points, dtype=np.float32) + 0.5
