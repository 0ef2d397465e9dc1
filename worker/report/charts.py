"""Charts of the report, drawn twice from one description: as SVG for the page, in its colours, and as a PNG file."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from PIL import Image, ImageDraw, ImageFont

from plugin_config.printable import one_line
from worker.report.statistics import Estimate

Role = Literal["ink", "muted", "grid", "series", "faint"]
"""What a shape is for; the page and the PNG files have a colour for each."""

Anchor = Literal["start", "middle", "end"]

_WIDTH, _MARGIN, _LEFT = 640.0, 12.0, 170.0
_ROW, _LINE_HEIGHT = 24.0, 220.0
_SIZE = 12.0  # of texts
_SCALE = 2  # pixels of a PNG to a unit
_PAPER = "#ffffff"
_PRINTED: dict[Role, str] = {
    "ink": "#1b1f24", "muted": "#5b6470", "grid": "#d7dce2", "series": "#1f6feb", "faint": "#9ec3fb",
}  # fmt: skip
_MOST_CHARACTERS = 22  # of a name beside a bar
_TICKS = 4
_ROUND = (1.0, 2.0, 2.5, 5.0, 10.0, 20.0)  # times a power of ten: distances of ticks


@dataclass(frozen=True)
class Line:
    """A line through points (x, y), y down."""

    points: tuple[tuple[float, float], ...]
    role: Role
    width: float = 1.0


@dataclass(frozen=True)
class Box:
    """A filled rectangle."""

    x: float
    y: float
    width: float
    height: float
    role: Role


@dataclass(frozen=True)
class Text:
    """One line of text; (x, y) is its anchor on the base line."""

    x: float
    y: float
    text: str
    role: Role
    anchor: Anchor = "start"


@dataclass(frozen=True)
class Drawing:
    """Shapes on a sheet, the later ones on top. `title` says what it shows."""

    title: str
    width: float
    height: float
    shapes: tuple[Line | Box | Text, ...]


@dataclass(frozen=True)
class Bar:
    """A bar: its name, what stands behind it, and its share with the interval."""

    name: str
    note: str
    share: Estimate


def bar_chart(bars: Sequence[Bar], *, title: str) -> Drawing:
    """Draw shares from 0 to 100 % as bars, with their intervals as lines.

    Args:
        bars: from top to bottom; one without a value has no bar.
        title: of the drawing.
    """
    right, bottom = _WIDTH - 110, _MARGIN + len(bars) * _ROW
    span = right - _LEFT
    shapes: list[Line | Box | Text] = []
    for tick in range(_TICKS + 1):
        x = _LEFT + span * tick / _TICKS
        shapes += [Line(((x, _MARGIN), (x, bottom)), "grid"),
                   Text(x, bottom + 16, f"{tick / _TICKS:.0%}", "muted", "middle")]  # fmt: skip
    for number, bar in enumerate(bars):
        y, share = _MARGIN + number * _ROW, bar.share
        shapes.append(Text(_LEFT - 8, y + 16, _shortened(bar.name), "ink", "end"))
        if share.value is not None:
            shapes.append(Box(_LEFT, y + 5, span * share.value, _ROW - 10, "faint"))
        if share.low is not None and share.high is not None:
            x, x_end, middle = _LEFT + span * share.low, _LEFT + span * share.high, y + _ROW / 2
            shapes.append(Line(((x, middle), (x_end, middle)), "series", 2.0))
        shapes.append(Text(right + 8, y + 16, bar.note, "muted"))
    return Drawing(title, _WIDTH, bottom + 26, tuple(shapes))


def line_chart(points: Sequence[tuple[float, float]], *, title: str, x_label: str, y_range: tuple[float, float],
               percent: bool = False) -> Drawing:  # fmt: skip
    """Draw one line over an x axis that starts at 0.

    Args:
        points: (x, y), x ascending; one or more, the last with x above 0.
        title: of the drawing.
        x_label: below the x axis.
        y_range: lowest and highest y; the second is larger. `round_range` makes one whose ticks are round.
        percent: whether y is a share.
    """
    left, right, bottom = 60.0, _WIDTH - _MARGIN, _MARGIN + _LINE_HEIGHT
    lowest, highest = y_range
    last = points[-1][0]

    def place(x: float, y: float) -> tuple[float, float]:
        share = (min(max(y, lowest), highest) - lowest) / (highest - lowest)
        return left + (right - left) * x / last, bottom - _LINE_HEIGHT * share

    shapes: list[Line | Box | Text] = []
    for tick in range(_TICKS + 1):
        value = lowest + (highest - lowest) * tick / _TICKS
        _, y = place(0, value)
        shapes += [Line(((left, y), (right, y)), "grid"),
                   Text(left - 8, y + 4, f"{value:.0%}" if percent else f"{value:g}", "muted", "end")]  # fmt: skip
    shapes += [Text(left, bottom + 16, "0", "muted", "middle"), Text(right, bottom + 16, f"{last:g}", "muted", "end"),
               Text((left + right) / 2, bottom + 16, x_label, "muted", "middle")]  # fmt: skip
    places = tuple(place(x, y) for x, y in points)
    if len(places) == 1:
        shapes.append(Box(places[0][0] - 3, places[0][1] - 3, 6, 6, "series"))
    else:
        shapes.append(Line(places, "series", 2.0))
    return Drawing(title, _WIDTH, bottom + 26, tuple(shapes))


def round_range(lowest: float, highest: float) -> tuple[float, float]:
    """The smallest range around one, of finite ends and not empty, whose ticks in `line_chart` are round numbers."""
    magnitude = 10.0 ** math.floor(math.log10((highest - lowest) / _TICKS))
    step = next(
        step
        for step in (factor * magnitude for factor in _ROUND)
        if step * (math.floor(lowest / step) + _TICKS) >= highest
    )
    start = step * math.floor(lowest / step)
    return start, start + _TICKS * step


def as_svg(drawing: Drawing) -> str:
    """The drawing as an SVG element; its classes `ink`, `muted`, `grid`, `series` and `faint` take their colours from
    the page.
    """
    title = html.escape(drawing.title)
    parts = "".join(_svg_shape(shape) for shape in drawing.shapes)
    return (
        f'<svg viewBox="0 0 {drawing.width:g} {drawing.height:g}" width="{drawing.width:g}" role="img" '
        f'aria-label="{title}"><title>{title}</title>{parts}</svg>'
    )


def as_image(drawing: Drawing) -> Image.Image:
    """The drawing as an RGB image on white, two pixels to a unit."""
    image = Image.new("RGB", (round(drawing.width * _SCALE), round(drawing.height * _SCALE)), _PAPER)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(_SIZE * _SCALE)
    for shape in drawing.shapes:
        colour = _PRINTED[shape.role]
        if isinstance(shape, Line):
            points = [(x * _SCALE, y * _SCALE) for x, y in shape.points]
            draw.line(points, fill=colour, width=round(shape.width * _SCALE), joint="curve")
        elif isinstance(shape, Box):
            x, y = shape.x * _SCALE, shape.y * _SCALE
            draw.rectangle((x, y, x + shape.width * _SCALE, y + shape.height * _SCALE), fill=colour)
        else:
            anchor = {"start": "ls", "middle": "ms", "end": "rs"}[shape.anchor]
            draw.text((shape.x * _SCALE, shape.y * _SCALE), shape.text, fill=colour, font=font, anchor=anchor)
    return image


def _svg_shape(shape: Line | Box | Text) -> str:
    if isinstance(shape, Line):
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in shape.points)
        return f'<polyline class="line {shape.role}" points="{points}" stroke-width="{shape.width:g}"/>'
    if isinstance(shape, Box):
        return (
            f'<rect class="{shape.role}" x="{shape.x:.1f}" y="{shape.y:.1f}" width="{shape.width:.1f}" '
            f'height="{shape.height:.1f}"/>'
        )
    return (
        f'<text class="{shape.role}" x="{shape.x:.1f}" y="{shape.y:.1f}" text-anchor="{shape.anchor}" '
        f'font-size="{_SIZE:g}">{html.escape(shape.text)}</text>'
    )


def _shortened(name: str) -> str:
    shown = one_line(name)
    return shown if len(shown) <= _MOST_CHARACTERS else f"{shown[: _MOST_CHARACTERS - 1]}…"
