"""Photographs with true masks, and an emulation of what a patch model would predict for them.

The layout of a set: `images/STEM.*`, `masks/STEM.png` (8-bit index PNG) or `objects/STEM.png` (binary), `classes.json`
(index to name), `split.json` (part to stems).
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from plugin_config.errors import ImageUnavailable
from plugin_config.printable import printable
from worker.segmentation.metrics import VOID

FILE_VOID = 255
"""Pixel value of a mask file that means void; arrays have VOID there."""

LONG_SIDE = 500  # pixels
_PATCH, _SHORT_SIDE = 16, 448  # pixels, of the emulated model
_CORRELATION = 1.5  # patches, standard deviation of the blur that makes the noise smooth
_SCALE = 10.0  # logit of a patch that one class covers completely
_MOST_CLASSES, _CHOSEN = 12, 8  # sets of more classes than the first are reduced to the second
_REMEDY = "A set holds images/, masks/ (or objects/), classes.json and split.json; see docs/research/outlines.md."

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Photograph:
    """A photograph, its truth and its classes.

    Attributes:
        stem: its file's name.
        image: (H, W, 3) uint8 RGB.
        truth: (H, W) int64 position in `classes` of each pixel, or VOID.
        classes: indices of the set.
    """

    stem: str
    image: NDArray[np.uint8]
    truth: NDArray[np.int64]
    classes: tuple[int, ...]


@dataclass(frozen=True)
class PatchEvidence:
    """Emulated evidence of a patch model on one photograph.

    Attributes:
        shares: (C, h, w) float32, share of each patch that each class covers.
        noise: (C, h, w) float32, spatially smooth, of unit variance.
    """

    shares: Floats
    noise: Floats

    def logits(self, sigma: float) -> Tensor:
        """(C, h, w) float32 patch logits; `sigma` is the standard deviation of the noise, in shares."""
        return torch.from_numpy(((self.shares + sigma * self.noise) * _SCALE).astype(np.float32))


def read_set(folder: Path, part: str, limit: int) -> list[Photograph]:
    """Read the photographs of one part, at most 500 pixels long; a set of binary objects is one part.

    Raises:
        ImageUnavailable: the folder is not a set, or the part holds nothing.
    """
    try:
        split = json.loads((folder / "split.json").read_text())
        named = json.loads((folder / "classes.json").read_text())
    except (OSError, ValueError) as error:
        raise ImageUnavailable(f"set {folder}", f"it cannot be read ({error})", _REMEDY) from error
    binary = (folder / "objects").is_dir()
    everything = [stem for stems in split.values() for stem in stems]
    stems = sorted(str(stem) for stem in (everything if binary else split.get(part) or everything))
    indices = [0, 1] if binary else [int(c) for c in named if c.isdigit() and int(c) != FILE_VOID]
    masks = folder / ("objects" if binary else "masks")
    stems = [stem for stem in stems if (masks / f"{stem}.png").is_file()][:limit]
    if not stems or len(indices) < 2:
        raise ImageUnavailable(f"set {folder}", f"part {part!r} holds no photograph with two classes", _REMEDY)
    return [_read(folder / "images", masks, stem, indices, binary=binary) for stem in stems]


def _read(images: Path, masks: Path, stem: str, indices: Sequence[int], *, binary: bool) -> Photograph:
    file = next(iter(sorted(images.glob(f"{stem}.*"))), None)
    if file is None:
        raise ImageUnavailable(f"photograph {images / stem}", "there is a mask but no image", _REMEDY)
    with Image.open(file) as photo, Image.open(masks / f"{stem}.png") as drawn:
        scale = min(1.0, LONG_SIDE / max(photo.size))
        size = (round(photo.width * scale), round(photo.height * scale))
        image = np.array(photo.convert("RGB").resize(size, Image.Resampling.LANCZOS))
        values = np.array(drawn.resize(size, Image.Resampling.NEAREST)).astype(np.int64)
    if binary:
        values = (values > (0 if values.max() <= 1 else 127)).astype(np.int64)
    classes = _chosen_classes(printable(stem), values, indices)
    place = np.full(256, VOID)
    place[list(classes)] = np.arange(len(classes))
    return Photograph(printable(stem), image, place[values], classes)


def _chosen_classes(stem: str, values: NDArray[np.int64], indices: Sequence[int]) -> tuple[int, ...]:
    """Choose the classes of a photograph: all of a small set, else those present and random others, at least eight."""
    if len(indices) <= _MOST_CLASSES:
        return tuple(indices)
    present = [c for c in indices if (values == c).any()]
    absent = np.random.default_rng(zlib.crc32(stem.encode())).permutation([c for c in indices if c not in present])
    return tuple(sorted([*present, *(int(c) for c in absent[: max(0, _CHOSEN - len(present))])]))


def emulate_evidence(photo: Photograph, *, seed: int) -> PatchEvidence:
    """Emulate a patch model with 16-pixel patches at short side 448: shares blurred by one patch, and smooth noise."""
    height, width = photo.truth.shape
    scale = _SHORT_SIDE / min(height, width) / _PATCH
    grid = (max(4, round(height * scale)), max(4, round(width * scale)))
    known = _pooled(photo.truth != VOID, grid) + 1e-3
    shares = np.stack([_pooled(photo.truth == c, grid) / known for c in range(len(photo.classes))])
    random, rim = np.random.default_rng(seed), 6
    white = random.standard_normal((len(shares), grid[0] + 2 * rim, grid[1] + 2 * rim)).astype(np.float32)
    smooth = np.stack([cv2.GaussianBlur(layer, (0, 0), _CORRELATION)[rim:-rim, rim:-rim] for layer in white])
    return PatchEvidence(shares.astype(np.float32), smooth * np.float32(2 * np.sqrt(np.pi) * _CORRELATION))


def _pooled(mask: NDArray[np.bool_], grid: tuple[int, int]) -> Floats:
    small = cv2.resize(mask.astype(np.float32), grid[::-1], interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.GaussianBlur(small, (0, 0), 1.0, borderType=cv2.BORDER_REPLICATE), dtype=np.float32)
