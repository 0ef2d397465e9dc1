"""Overlays: masks painted over their images, one image or a sheet of several, with a legend."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps

Colour = tuple[int, int, int]
"""RGB, 0 to 255."""

# The palette of Okabe and Ito, which colour-blind readers can tell apart.
_COLOURS = (
    (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167),
)  # fmt: skip
_OPACITY = 0.5
_SATURATION = 0.25  # of the image below a tint: its own colours would mix with the label's into those of other labels
_COLUMNS = 3
_LEAST_WIDTH = 240  # pixels, of a legend
_PAPER, _INK = (255, 255, 255), (20, 20, 20)


@dataclass(frozen=True)
class Painting:
    """An image and the masks to paint over it.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        masks: label and (H, W) bool mask, in the image's pixels.
    """

    image: NDArray[np.uint8]
    masks: Sequence[tuple[str, NDArray[np.bool_]]]


def draw_overlay(image: NDArray[np.uint8], masks: Sequence[tuple[str, NDArray[np.bool_]]]) -> Image.Image:
    """Tint each mask in its label's colour and outline it; below a tint the image is paler. The legend stands below the
    image and hides nothing.

    Args:
        image: (H, W, 3) uint8 RGB.
        masks: label and (H, W) bool mask, in the image's pixels.
    """
    return draw_sheet([Painting(image, masks)], list(dict.fromkeys(name for name, _ in masks)))


def draw_sheet(
    paintings: Sequence[Painting], names: Sequence[str], *, columns: int = _COLUMNS, titles: Sequence[str] = (),
    gap: int = 0, colours: Mapping[str, Colour] | None = None,
) -> Image.Image:  # fmt: skip
    """Arrange overlays in rows, each fitted into the size of the first, with one legend below.

    Args:
        paintings: at least one.
        names: every label, in the order of the legend; a label has the same colour in all images.
        columns: in a row.
        titles: of the columns, above them; none = without.
        gap: pixels between columns.
        colours: RGB of labels; the others get one of `label_colour`.
    """
    named = {name: label_colour(index) for index, name in enumerate(names)} | dict(colours or {})
    height, width = paintings[0].image.shape[:2]
    columns = min(columns, len(paintings))
    rows = -(-len(paintings) // columns)
    total = columns * (width + gap) - gap
    legend = _legend(names, named, max(total, _LEAST_WIDTH)) if names else Image.new("RGB", (1, 0))
    head = _titles(titles, width, gap) if titles else Image.new("RGB", (1, 0))
    size = (max(total, legend.width), head.height + rows * height + legend.height)
    sheet = Image.new("RGB", size, _PAPER)
    sheet.paste(head, (0, 0))
    for place, painting in enumerate(paintings):
        row, column = divmod(place, columns)
        painted = _paint(painting, named)
        if painted.size != (width, height):
            painted = ImageOps.pad(painted, (width, height), color=_PAPER)
        sheet.paste(painted, (column * (width + gap), head.height + row * height))
    if legend.height:
        sheet.paste(legend, (0, head.height + rows * height))
    return sheet


def label_colour(index: int) -> Colour:
    """RGB colour of the label at this index of the legend; the first hundred all differ."""
    if index < len(_COLOURS):
        return _COLOURS[index]
    red, green, blue = colorsys.hsv_to_rgb((index * 0.618034) % 1.0, 0.75, 0.65 + 0.3 * (index % 2))
    return round(255 * red), round(255 * green), round(255 * blue)


def _paint(painting: Painting, colours: Mapping[str, Colour]) -> Image.Image:
    """Tints, then outlines with a white border: a mask shows on things of any colour, its label's own too."""
    painted = painting.image.astype(np.float32)
    line = max(1, round(min(painted.shape[:2]) / 250))  # pixels
    outlined = []
    for name, mask in painting.masks:
        colour = np.array(colours[name], dtype=np.float32)
        below = painting.image[mask].astype(np.float32)
        grey = below.mean(axis=1, keepdims=True)
        painted[mask] = (1 - _OPACITY) * (grey + _SATURATION * (below - grey)) + _OPACITY * colour
        outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        outlined.append((outlines, colour.tolist()))
    for outlines, _ in outlined:
        cv2.drawContours(painted, outlines, -1, _PAPER, 2 * line)
    for outlines, colour in outlined:
        cv2.drawContours(painted, outlines, -1, colour, line)
    return Image.fromarray(painted.round().astype(np.uint8))


def _titles(titles: Sequence[str], width: int, gap: int) -> Image.Image:
    """Draw the titles of columns, each `width` pixels wide, `gap` pixels apart, RGB."""
    size = min(40, max(14, round(width / 12)))
    font, line = ImageFont.load_default(size), round(size * 1.6)
    head = Image.new("RGB", (len(titles) * (width + gap) - gap, line), _PAPER)
    draw = ImageDraw.Draw(head)
    for column, title in enumerate(titles):
        place = (column * (width + gap) + size * 0.4, size * 0.2)
        draw.text(place, _shortened(title, font, width - size), font=font, fill=_INK)
    return head


def _legend(names: Sequence[str], colours: Mapping[str, Colour], width: int) -> Image.Image:
    """Draw swatches and names in as many rows as they need, `width` pixels wide, RGB."""
    size = min(40, max(14, round(width / 45)))
    font, line = ImageFont.load_default(size), round(size * 1.6)
    places: list[tuple[int, int, str]] = []
    left, top = size, round(size * 0.4)
    for name in names:
        shown = _shortened(name, font, width - round(3.4 * size))
        needed = round(font.getlength(shown) + 1.4 * size)
        if left > size and left + needed > width - size:
            left, top = size, top + line
        places.append((left, top, shown))
        left += needed + 2 * size
    legend = Image.new("RGB", (width, top + line), _PAPER)
    draw = ImageDraw.Draw(legend)
    for name, (left, top, shown) in zip(names, places, strict=True):
        draw.rectangle((left, top + size * 0.1, left + size, top + size * 1.1), fill=colours[name])
        draw.text((left + 1.4 * size, top), shown, font=font, fill=_INK)
    return legend


def _shortened(name: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, width: int) -> str:
    if font.getlength(name) <= width:
        return name
    while name and font.getlength(f"{name}...") > width:
        name = name[:-1]
    return f"{name}..."
