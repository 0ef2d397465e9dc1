"""Charts of the `engine` figures: `python -m worker.lab.benchmarks.growth --figures FILE --output-dir docs/images`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from plugin_config.errors import SettingsError, ZeromaskError
from worker.lab.benchmarks.targets import Figure, read_figures
from worker.lab.charts import Line, line_chart

_ONE, _TWO, _BARE = "one stage", "two stages", "bare forward"


def overheads(figures: Mapping[str, Figure], what: str) -> Line:
    """Collect the figures named what_N_overhead as points (N, multiple of the bare forward), N ascending.

    Raises:
        SettingsError: there are none.
    """
    found = []
    for name, value in figures.items():
        kind, _, rest = name.partition("_")
        if kind == what and rest.endswith("_overhead"):
            found.append((float(rest.removesuffix("_overhead")), float(value)))
    if not found:
        remedy = "Name a file made by `zeromask bench --only engine --json`."
        raise SettingsError("--figures", f"holds no {what}_N_overhead", remedy)
    return sorted(found)


def charts(figures: Mapping[str, Figure]) -> dict[str, str]:
    """Draw growth with labels, growth with pixels, and one stage against two, as SVG by name.

    Raises:
        SettingsError: a figure is missing.
        EnvironmentBroken: matplotlib is not installed.
    """
    found = {}
    for what, x_label in (("labels", "labels"), ("megapixels", "megapixels of the image")):
        line = overheads(figures, what)
        bare = [(0.0, 1.0), (line[-1][0], 1.0)]
        top = max(2.0, *(y for _, y in line))
        found[f"speed_{what}"] = line_chart(
            {_ONE: line, _BARE: bare}, title="Pixels to regions, in bare forwards", x_label=x_label, y_range=(0.0, top)
        )
    whole = float(figures["overhead"])
    prefix = "one_stage_speedup_"
    two = sorted((float(name.removeprefix(prefix)), float(value) * whole)
                 for name, value in figures.items() if name.startswith(prefix))  # fmt: skip
    one = [(0.0, whole), (two[-1][0], whole)]
    found["speed_stages"] = line_chart(
        {_TWO: two, _ONE: one}, title="One stage against two, in bare forwards", x_label="proposals",
        y_range=(0.0, two[-1][1]),
    )  # fmt: skip
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw the charts of one run. Returns 0; 1 when the figures cannot be read or drawn."""
    parser = argparse.ArgumentParser(prog="python -m worker.lab.benchmarks.growth", description=main.__doc__)
    parser.add_argument("--figures", type=Path, required=True, help="what `zeromask bench --json` printed")
    parser.add_argument("--output-dir", type=Path, required=True, help="folder of the SVG files")
    options = parser.parse_args(arguments)
    try:
        drawn = charts(read_figures(options.figures))
    except ZeromaskError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    options.output_dir.mkdir(parents=True, exist_ok=True)
    for name, svg in drawn.items():
        (options.output_dir / f"{name}.svg").write_text(svg)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
