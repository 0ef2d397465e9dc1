"""Encoding of masks as brush regions and decoding, against label-studio-sdk, which has the same RLE format."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import cv2
import numpy as np
from label_studio_sdk.converter import brush
from numpy.typing import NDArray
from rich.console import Console

from worker.lab.benchmarks.timing import time_in_turns
from worker.label_studio.brush_rle import decode_rle, encode_rle

Mask = NDArray[np.bool_]


def region_figures(turns: int, shrink: int, console: Console) -> Mapping[str, float]:
    """Measure on a smooth mask of a megapixel and on a noisy mask of twelve.

    Args:
        turns: measurements of each.
        shrink: divides the pixels of both masks.
        console: where progress is shown.

    Returns:
        encode_smooth_ms, encode_noisy_ms, decode_smooth_ms, decode_noisy_ms: our times.
        *_speedup: the SDK's time over ours.
        sdk_decodes_alike: 1 when the SDK decodes our streams to the masks they encode and we decode the SDK's, else 0.
    """
    side = round((1e6 / shrink) ** 0.5)
    masks = {"smooth": _disc(side, side), "noisy": _noisy(round(3000 / shrink**0.5), round(4000 / shrink**0.5))}
    figures: dict[str, float] = {}
    alike = True
    for name, mask in masks.items():
        painted = mask.astype(np.uint8) * 255
        ours, theirs = encode_rle(mask), brush.mask2rle(painted)
        alike &= bool((np.asarray(brush.decode_rle(ours)).reshape(*mask.shape, 4)[..., 3] == painted).all())
        alike &= bool((decode_rle(theirs, height=mask.shape[0], width=mask.shape[1]) == mask).all())
        contestants: dict[str, Callable[[], object]] = {
            "encode": lambda mask=mask: encode_rle(mask),  # type: ignore[misc]
            "sdk_encode": lambda painted=painted: brush.mask2rle(painted),  # type: ignore[misc]
            "decode": lambda ours=ours, mask=mask: decode_rle(ours, height=mask.shape[0], width=mask.shape[1]),  # type: ignore[misc]
            "sdk_decode": lambda ours=ours: brush.decode_rle(ours),  # type: ignore[misc]
        }
        times = time_in_turns(contestants, turns=turns, console=console, title=f"{name} regions", warm_up=False)
        for what in ("encode", "decode"):
            figures[f"{what}_{name}_ms"] = times.ms(what)
            figures[f"{what}_{name}_speedup"] = times.ratio(f"sdk_{what}", what)
    return {**figures, "sdk_decodes_alike": float(alike)}


def _disc(height: int, width: int) -> Mask:
    y, x = np.ogrid[:height, :width]
    disc: Mask = (y - height / 2) ** 2 + (x - width / 2) ** 2 < (0.35 * min(height, width)) ** 2
    return disc


def _noisy(height: int, width: int) -> Mask:
    """A threshold on noise: specks and holes of a few pixels everywhere."""
    noise = np.random.default_rng(0).standard_normal((height, width)).astype(np.float32)
    noisy: Mask = cv2.GaussianBlur(noise, (0, 0), 1.5) > 0
    return noisy
