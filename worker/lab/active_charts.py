"""Charts of learning curves and of minutes, of sets on which orders of annotation were measured."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from plugin_config.errors import EnvironmentBroken
from worker.lab.charts import line_chart


def chart_names(name: str) -> tuple[str, str]:
    """File names of the learning curves and of the minutes of a set."""
    stem = name.replace(" ", "_")
    return f"curves_{stem}.svg", f"minutes_{stem}.svg"


def write_charts(folder: Path, name: str, found: Mapping[str, Any]) -> None:
    """Draw what `worker.lab.active_figures.summary` found on a set, into files named by `chart_names`.

    Raises:
        EnvironmentBroken: the folder cannot be written to, or matplotlib is not installed.
    """
    curves = {order: list(zip(map(float, found["corrected"]), row["miou"], strict=True))
              for order, row in found["orders"].items()}  # fmt: skip
    row = found["orders"].get("active") or next(iter(found["orders"].values()))
    minutes = {"from scratch": row["minutes_from_scratch"], "with predictions": row["minutes"]}
    lines = {title: [(0.0, 0.0), *((float(k), value) for k, value in enumerate(values, start=1))]
             for title, values in minutes.items()}  # fmt: skip
    most = max(value for values in minutes.values() for value in values)
    charts = (
        line_chart(curves, title=f"Mean IoU of what is served: {name}", x_label="images corrected", y_range=(0.0, 1.0),
                   x_ticks=[float(k) for k in found["corrected"]]),
        line_chart(lines, title=f"Simulated minutes: {name}", x_label="images corrected", y_range=(0.0, most)),
    )  # fmt: skip
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file, svg in zip(chart_names(name), charts, strict=True):
            (folder / file).write_text(svg)
    except OSError as error:
        raise EnvironmentBroken(f"folder {folder}", f"it cannot be written to ({error})", "Name another.") from error
