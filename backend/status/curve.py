"""A small curve of a figure over versions, drawn as SVG inside of the page."""

from __future__ import annotations

from collections.abc import Sequence

from backend.status.page import text

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP, _RIGHT = 560.0, 170.0, 34.0, 24.0, 12.0, 20.0
_MOST_NAMES = 10  # under the axis


def draw_curve(points: Sequence[tuple[str, float, float | None]], *, said: str) -> str:
    """Draw how good each version was when it was judged.

    Args:
        points: name of a version, its mean IoU and that of what was served before on the same images, in [0, 1]; None =
            not known. The oldest first.
        said: the same in words, for those who do not see it; plain text.
    """
    step = (_WIDTH - _LEFT - _RIGHT) / max(1, len(points) - 1)
    places = [_LEFT + number * step for number in range(len(points))] if len(points) > 1 else [_WIDTH / 2]
    grid = "".join(
        f'<line class="grid" x1="{_LEFT:g}" x2="{_WIDTH - _RIGHT:g}" y1="{_y(value):.1f}" y2="{_y(value):.1f}"/>'
        f'<text class="axis" x="{_LEFT - 6:g}" y="{_y(value) + 4:.1f}" text-anchor="end">{value:g}</text>'
        for value in (0, 0.5, 1)
    )
    after = [(x, _y(value)) for x, (_, value, _) in zip(places, points, strict=True)]
    before = [(x, _y(value)) for x, (_, _, value) in zip(places, points, strict=True) if value is not None]
    every = -(-len(points) // _MOST_NAMES)
    names = "".join(
        f'<text class="axis" x="{x:.1f}" y="{_HEIGHT - 6:g}" text-anchor="middle">{text(name.partition("-")[0])}</text>'
        for number, (x, (name, _, _)) in enumerate(zip(places, points, strict=True))
        if number % every == 0
    )
    dots = "".join(f'<circle class="after" cx="{x:.1f}" cy="{y:.1f}" r="4"/>' for x, y in after)
    marks = "".join(f'<circle class="before" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in before)
    lines = f'<polyline class="before" points="{_path(before)}"/><polyline class="after" points="{_path(after)}"/>'
    return (
        f'<svg role="img" aria-label="{text(said, most=1000)}" viewBox="0 0 {_WIDTH:g} {_HEIGHT:g}" '
        f'width="{_WIDTH:g}" height="{_HEIGHT:g}">{grid}{lines}{marks}{dots}{names}</svg>'
    )


def _y(value: float) -> float:
    return _TOP + (_HEIGHT - _TOP - _BOTTOM) * (1 - value)


def _path(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
