"""Chart of a training log: `python -m worker.lab.drawn_world.curves --output docs/images/builtin_training.svg`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from plugin_config.errors import EnvironmentBroken, ZeromaskError
from worker.lab.charts import line_chart
from worker.lab.drawn_world.export import WEIGHTS_DIR

LOG_FILE = "training_log.jsonl"
_SHOWN = ("colour", "texture", "shape", "colour_texture", "colour_shape")


def read_curves(path: Path) -> dict[str, list[tuple[float, float]]]:
    """Read (step, accuracy in [0, 1]) of each measurement in a training log.

    Raises:
        EnvironmentBroken: there is no such file, or it holds no measurement.
    """
    try:
        rows = [json.loads(line) for line in path.read_text().splitlines()]
    except (OSError, ValueError) as error:
        remedy = "Name the training_log.jsonl of a training."
        raise EnvironmentBroken(f"training log {path}", f"cannot be read ({error})", remedy) from error
    # A run resumed from before its last measurement has measured some steps twice; the later measurement counts.
    measured = {row["step"]: row for row in rows if "step" in row}
    if not measured:
        raise EnvironmentBroken(f"training log {path}", "holds no measurement", "Train longer than --report-every.")
    return {name: [(step, measured[step][name]) for step in sorted(measured)] for name in _SHOWN}


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw the accuracy on held-out compositions over the steps of a training."""
    parser = argparse.ArgumentParser(prog="python -m worker.lab.drawn_world.curves", description=main.__doc__)
    parser.add_argument("--log", type=Path, default=WEIGHTS_DIR / LOG_FILE, help="default: of the shipped weights")
    parser.add_argument("--output", type=Path, required=True, help="SVG file to write")
    options = parser.parse_args(arguments)
    try:
        curves = {name.replace("_", " x "): line for name, line in read_curves(options.log).items()}
        title = "Accuracy per patch on compositions that training never shows"
        options.output.write_text(line_chart(curves, title=title, x_label="step", y_range=(0.0, 1.0)))
    except ZeromaskError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
