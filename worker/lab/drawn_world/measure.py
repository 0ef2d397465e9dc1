"""Figures of the builtin model on compositions that its training never shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worker.lab.drawn_world.batches import PATCH, evaluation_scenes, patch_shares, preprocess, thing_codes
from worker.lab.drawn_world.objective import Clip, dense_features
from worker.lab.drawn_world.scenes import Scene, label_mask
from worker.lab.drawn_world.world import COLOURS, SHAPES, TEXTURES
from worker.segmentation.metrics import class_ious, confusion

EncodeTexts = Callable[[Sequence[str]], Tensor]
"""Text tower of a model: T texts to (T, D) float32 features of unit length."""

_SINGLE = {"colour": COLOURS, "texture": TEXTURES, "shape": SHAPES}


@torch.no_grad()
def patch_logits(model: Clip, scene: Scene, texts: Tensor) -> Tensor:
    """(P, T) float32 logits of every patch of one scene."""
    return _logits(model, _features(model, scene), texts)


def _features(model: Clip, scene: Scene) -> Tensor:
    return dense_features(model, torch.from_numpy(preprocess(scene.image[None])))[0]


def _logits(model: Clip, features: Tensor, texts: Tensor) -> Tensor:
    return model.logit_scale.exp() * (features @ texts.T) + model.logit_bias  # type: ignore[no-any-return]


@torch.no_grad()
def unseen_figures(
    model: Clip, encode: EncodeTexts, *, scenes: int = 64, seed: int = 7, scale: float = 1.0
) -> dict[str, float]:
    """Accuracy per patch (a thing covers 60 %) on things of held-out compositions, all in [0, 1].

    `colour`, `texture`, `shape`: among the words of the kind, over things with either held-out pair.
    `colour_texture`: among all 32 pairs, over held-out pairs; `colour_shape`: likewise among all 64.
    `accepted`: patches where the thing's own colour-texture label has a positive logit;
    `rejected`: patches where all colour-texture labels but its own are negative.
    Chance: 1/8, 1/4, 1/8, 1/32, 1/64.

    Args:
        model: the model, in eval mode.
        encode: its text tower.
        scenes: how many, half for each kind of held-out pair.
        seed: of the scenes.
        scale: image and object size as a multiple of 96 pixels.
    """
    size = (int(96 * scale) // PATCH * PATCH,) * 2
    drawn = {
        split: evaluation_scenes(seed, scenes // 2, size, unit=96 * scale, split=split)
        for split in ("unseen_texture", "unseen_shape")
    }
    pairs = encode([f"a {c} {t} shape" for c in COLOURS for t in TEXTURES])
    forms = encode([f"a {c} {s}" for c in COLOURS for s in SHAPES])
    words = {kind: encode([f"a {w}" if kind == "shape" else f"a {w} shape" for w in _SINGLE[kind]]) for kind in _SINGLE}
    hits: dict[str, list[Tensor]] = {}
    for split, drawn_scenes in drawn.items():
        for scene in drawn_scenes:
            rows, codes = _sure_patches(scene)
            features = _features(model, scene)[rows]
            for column, kind in enumerate(_SINGLE):
                best = _logits(model, features, words[kind]).argmax(dim=1)
                hits.setdefault(kind, []).append(best == codes[:, column])
            if split == "unseen_texture":
                _pair_hits(hits, _logits(model, features, pairs), codes[:, 0] * len(TEXTURES) + codes[:, 1])
            else:
                best = _logits(model, features, forms).argmax(dim=1)
                hits.setdefault("colour_shape", []).append(best == codes[:, 0] * len(SHAPES) + codes[:, 2])
    return {kind: round(torch.cat(parts).float().mean().item(), 4) for kind, parts in hits.items()}


def _pair_hits(hits: dict[str, list[Tensor]], logits: Tensor, own: Tensor) -> None:
    hits.setdefault("colour_texture", []).append(logits.argmax(dim=1) == own)
    mine = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, own[:, None], True)
    hits.setdefault("accepted", []).append(logits[mine] > 0)
    hits.setdefault("rejected", []).append(logits.masked_fill(mine, -99).amax(dim=1) < 0)


def _sure_patches(scene: Scene) -> tuple[Tensor, Tensor]:
    shares = torch.from_numpy(patch_shares(scene))[:, :8]
    share, owner = shares.max(dim=1)
    rows = (share >= 0.6).nonzero()[:, 0]
    return rows, torch.from_numpy(thing_codes(scene.objects))[owner[rows]]


@torch.no_grad()
def foreground_miou(
    model: Clip, encode: EncodeTexts, *, size: int, unit: float, scenes: int = 24, seed: int = 8, whole: bool = False
) -> float:
    """Mean IoU of the labels of each scene's things, held-out compositions only, coarse masks upsampled bilinearly.

    A pixel gets the label with the highest logit if that is positive, else none. The labels of a scene are the colour
    and texture of its things except the last, so that every scene also holds things that no label describes.

    Args:
        model: the model, in eval mode.
        encode: its text tower.
        size: height and width in pixels.
        unit: pixels that object sizes are relative to.
        scenes: how many.
        seed: of the scenes.
        whole: labels name the shape too.
    """
    ious: list[float] = []
    for scene in evaluation_scenes(seed, scenes, (size, size), unit=unit, split="unseen"):
        labels, logits = _label_logits(model, encode, scene, whole=whole)
        ious.extend(_scene_ious(scene, labels, logits))
    return round(float(np.mean(ious)), 4)


@torch.no_grad()
def best_bias_shift(model: Clip, encode: EncodeTexts, *, scenes: int = 24, seed: int = 9) -> float:
    """Find the shift of `logit_bias` with the best mean IoU at threshold 0, on scenes of seen compositions only.

    Training weighs rare positives more than their share, which biases the threshold.
    """
    shifts = np.linspace(-2, 2, 17)
    ious: list[list[float]] = [[] for _ in shifts]
    for size, unit in ((96, 96.0), (192, 107.0), (288, 160.0)):
        for scene in evaluation_scenes(seed, scenes * 96 // size, (size, size), unit=unit, split="seen"):
            labels, logits = _label_logits(model, encode, scene, whole=False)
            for of_shift, shift in zip(ious, shifts, strict=True):
                of_shift.extend(_scene_ious(scene, labels, logits + np.float32(shift)))
    return float(shifts[int(np.argmax([np.mean(of_shift) for of_shift in ious]))])


def _label_logits(
    model: Clip, encode: EncodeTexts, scene: Scene, *, whole: bool
) -> tuple[list[str], NDArray[np.float32]]:
    """Labels of a scene except those of its last thing, and their (H, W, labels) float32 logits."""
    things = scene.objects[:-1] or scene.objects
    labels = sorted({f"{t.colour} {t.texture} {t.shape if whole else 'shape'}" for t in things})
    logits = patch_logits(model, scene, encode(labels)).numpy()
    height, width = scene.instances.shape
    grid = logits.reshape(height // PATCH, width // PATCH, -1)
    full = cv2.resize(grid, (width, height), interpolation=cv2.INTER_LINEAR)
    return labels, np.asarray(full, dtype=np.float32).reshape(height, width, -1)  # cv2 drops a single channel


def _scene_ious(scene: Scene, labels: Sequence[str], logits: NDArray[np.float32]) -> list[float]:
    """IoU of each label that the scene shows; pixels of (H, W, labels) logits without a positive one have no label."""
    predicted = np.where(logits.max(axis=-1) > 0, logits.argmax(axis=-1), len(labels))
    truth = np.full(predicted.shape, len(labels))
    for k, label in enumerate(labels):
        truth[label_mask(scene, label)] = k
    ious = class_ious(confusion(truth, predicted, len(labels) + 1))[:-1]
    return [float(iou) for iou in ious[~np.isnan(ious)]]


@torch.no_grad()
def figures(model: Clip, encode: EncodeTexts) -> dict[str, float]:
    """Measure everything on unseen compositions: per patch at 96 pixels, masks at 96, 192 and 288 pixels."""
    model.eval()
    found = unseen_figures(model, encode)
    found["miou_96"] = foreground_miou(model, encode, size=96, unit=96)
    found["miou_192"] = foreground_miou(model, encode, size=192, unit=107)
    found["miou_192_whole"] = foreground_miou(model, encode, size=192, unit=107, whole=True)
    found["miou_288"] = foreground_miou(model, encode, size=288, unit=160, scenes=8)
    return found
