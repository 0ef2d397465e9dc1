"""Masks to brush regions and back, against label-studio-sdk, which writes and reads the same stream.

It must not know models.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import cv2
import numpy as np
from label_studio_sdk.converter import brush
from numpy.typing import NDArray
from rich.console import Console

from worker.lab.benchmarks.clock import take_turns
from worker.label_studio.brush_rle import decode_rle, encode_rle

Mask = NDArray[np.bool_]


def region_figures(turns: int, shrink: int, console: Console) -> Mapping[str, float]:
    """Measure on a smooth mask of a megapixel and on a noisy one of twelve, each divided by `shrink`.

    Returns:
        encode_smooth_ms, encode_noisy_ms, decode_smooth_ms, decode_noisy_ms: ours.
        *_speedup: the SDK's time over ours. sdk_decodes_alike: 1 when the SDK reads our streams as the masks they were
            made from, and we read the SDK's, else 0.
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
        times = take_turns(contestants, turns=turns, console=console, told=f"{name} regions", warm_up=False)
        for what in ("encode", "decode"):
            figures[f"{what}_{name}_ms"] = times.ms(what)
            figures[f"{what}_{name}_speedup"] = times.ratio(f"sdk_{what}", what)
    return {**figures, "sdk_decodes_alike": float(alike)}


def _disc(height: int, width: int) -> Mask:
    y, x = np.ogrid[:height, :width]
    disc: Mask = (y - height / 2) ** 2 + (x - width / 2) ** 2 < (0.35 * min(height, width)) ** 2
    return disc


def _noisy(height: int, width: int) -> Mask:
    """What a threshold on noisy scores makes: specks and holes of a few pixels everywhere."""
    noise = np.random.default_rng(0).standard_normal((height, width)).astype(np.float32)
    noisy: Mask = cv2.GaussianBlur(noise, (0, 0), 1.5) > 0
    return noisy
