"""Screenshots as small files."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image


def write_small(shot: bytes, path: Path, *, colours: int = 256) -> None:
    """Write a screenshot as a PNG file of few colours, without dithering."""
    image = Image.open(io.BytesIO(shot)).convert("RGB")
    image.quantize(colours, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(path, optimize=True)
