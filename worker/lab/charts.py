"""Line charts as SVG, for the documentation. It must not know what is drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from xml.sax.saxutils import escape

Point = tuple[float, float]
Line = Sequence[Point]

_WIDTH, _HEIGHT = 720, 380
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 176, 40, 48
_INKS = ("#c0392b", "#2471a3", "#1e8449", "#b9770e", "#7d3c98", "#515a5a")
_TICKS = 5


def line_chart(
    lines: Mapping[str, Line], *, title: str, x_label: str, y_range: tuple[float, float],
    x_ticks: Sequence[float] | None = None,
) -> str:  # fmt: skip
    """Draw named lines over one x axis.

    Args:
        lines: (x, y) points of each line, x ascending; the name stands beside its last point.
        title: above the chart.
        x_label: below it.
        y_range: lowest and highest y shown; points outside are drawn at the edge.
        x_ticks: what is written along the x axis; None = six numbers from 0 to the last x.

    Returns:
        a whole SVG document, 720 x 380 pixels, with its own light ground.

    Raises:
        ValueError: there is no point, or y_range is empty.
    """
    reach = max((x for line in lines.values() for x, _ in line), default=0.0)
    low, high = y_range
    if reach <= 0 or high <= low:
        raise ValueError(f"a chart must have a point with x above 0 and a y_range, got {reach} and {y_range}")

    def place(x: float, y: float) -> Point:
        share = min(max((y - low) / (high - low), 0.0), 1.0)
        return (
            _LEFT + x / reach * (_WIDTH - _LEFT - _RIGHT),
            _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM),
        )

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#fff"/>',
        _text(_LEFT, 22, title, size=15),
        _text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 10, x_label, anchor="middle"),
    ]
    for tick in range(_TICKS + 1):
        share = tick / _TICKS
        y = place(0.0, low + share * (high - low))[1]
        parts.append(f'<path d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}" stroke="#ddd"/>')
        parts.append(_text(_LEFT - 8, y + 4, f"{low + share * (high - low):.2g}", anchor="end"))
    for x in [tick / _TICKS * reach for tick in range(_TICKS + 1)] if x_ticks is None else x_ticks:
        parts.append(_text(place(x, low)[0], _HEIGHT - _BOTTOM + 18, f"{x:.4g}", anchor="middle"))
    for ink, row in zip(_INKS * len(lines), _named_rows(lines, place), strict=False):
        name, points, height = row
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        parts.append(f'<path d="M{path}" fill="none" stroke="{ink}" stroke-width="2"/>')
        parts.append(_text(points[-1][0] + 8, height, name, ink=ink))
    return "\n".join([*parts, "</svg>\n"])


def _named_rows(
    lines: Mapping[str, Line], place: Callable[[float, float], Point]
) -> list[tuple[str, list[Point], float]]:
    """Each line's name and points in pixels, and the height of its name, pushed apart where lines end together."""
    rows = [(name, [place(x, y) for x, y in line]) for name, line in lines.items() if line]
    rows.sort(key=lambda row: row[1][-1][1])
    found, free = [], float(_TOP)
    for name, points in rows:
        height = max(points[-1][1] + 4, free)
        free = height + 16
        found.append((name, points, height))
    return found


def _text(x: float, y: float, text: str, *, size: int = 12, anchor: str = "start", ink: str = "#222") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="{ink}">{escape(text)}</text>'
    )
