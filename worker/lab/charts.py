"""Line charts of the documentation, drawn with matplotlib, which is a dependency of development only."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

from plugin_config.errors import EnvironmentBroken

Point = tuple[float, float]
Line = Sequence[Point]

_WIDTH, _HEIGHT = 7.2, 3.8  # inches; an SVG has 72 points to the inch
_COLOURS = ("#c0392b", "#2471a3", "#1e8449", "#b9770e", "#7d3c98", "#515a5a")


def line_chart(
    lines: Mapping[str, Line], *, title: str, x_label: str, y_range: tuple[float, float],
    x_ticks: Sequence[float] | None = None,
) -> str:  # fmt: skip
    """Draw named lines over one x axis that starts at 0.

    Args:
        lines: (x, y) points of each line, x ascending; those without points are left out. The legend lists them by
            their last y, highest first.
        title: above the chart.
        x_label: below the x axis.
        y_range: lowest and highest y of the axis; what lies outside is cut off.
        x_ticks: numbers along the x axis; None = chosen by matplotlib.

    Returns:
        an SVG document of 518 x 274 points on white, readable on light and dark pages.

    Raises:
        ValueError: no line has a point with x above 0, or y_range is empty.
        EnvironmentBroken: matplotlib is not installed.
    """
    last_x = max((x for line in lines.values() for x, _ in line), default=0.0)
    if last_x <= 0 or y_range[1] <= y_range[0]:
        raise ValueError(f"a chart must have a point with x above 0 and a y_range, got {last_x} and {y_range}")
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as error:
        remedy = 'Install it: pip install "matplotlib>=3.10"; in a clone, `make environments` does.'
        raise EnvironmentBroken("chart", f"cannot be drawn without matplotlib ({error})", remedy) from error
    # Text stays text, and ids are hashed with a fixed salt: the same lines give the same bytes.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "zeromask", "font.size": 9.0}):
        figure = Figure(figsize=(_WIDTH, _HEIGHT), facecolor="white", layout="constrained")
        axes = figure.subplots()
        drawn = sorted((name for name, line in lines.items() if line), key=lambda name: -lines[name][-1][1])
        for number, name in enumerate(drawn):
            x, y = zip(*lines[name], strict=True)
            axes.plot(x, y, label=name, gid=f"line-{number}", color=_COLOURS[number % len(_COLOURS)])
        axes.set(title=title, xlabel=x_label, xlim=(0, last_x), ylim=y_range)
        if x_ticks is not None:
            axes.set_xticks(x_ticks, [f"{x:g}" for x in x_ticks])
        axes.grid(axis="y", color="#dddddd")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
        svg = io.StringIO()
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    return svg.getvalue()
