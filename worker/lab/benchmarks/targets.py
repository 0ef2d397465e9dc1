"""Targets of the figures of `zeromask bench`, comparison of two runs, and the table for people."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from plugin_config.errors import SettingsError

Figure = float | str


@dataclass(frozen=True)
class Target:
    """Bounds that a figure has to keep; None = unbounded."""

    least: float | None = None
    most: float | None = None

    def verdict(self, value: float) -> str:
        """Say the target and whether a value meets it."""
        met = (self.least is None or value >= self.least) and (self.most is None or value <= self.most)
        wanted = f"at most {self.most:g}" if self.least is None else f"at least {self.least:g}"
        return f"{wanted}: {'met' if met else 'MISSED'}"


# For ViT-B-16 at 448 pixels on a CPU; of 1,200 labels, for the built-in model.
TARGETS: Mapping[str, Target] = {
    "overhead": Target(most=1.25),
    "one_stage_speedup": Target(least=15),
    "one_stage_speedup_20": Target(least=3.5),
    "shape_speedup": Target(least=10),
    "labels_20_to_40": Target(most=0.05),
    **{f"labels_1200_{size}{head}": Target(most=2)
       for size in ("64x40", "320x240", "1920x1080") for head in ("", "_learned")},
    "encode_smooth_speedup": Target(least=1),
    "encode_noisy_speedup": Target(least=10),
    "sdk_decodes_alike": Target(least=1),
    "click_busy_p95_over_idle": Target(most=3),
}  # fmt: skip


def read_figures(path: Path) -> dict[str, Figure]:
    """Read the figures of an earlier run from a file with its `--json` line.

    Raises:
        SettingsError: there is no such file, or it holds something else.
    """
    remedy = "Name a file that holds the line of `zeromask bench --json`."
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise SettingsError(f"--compare {path}", f"cannot be read ({error})", remedy) from error
    if not isinstance(found, dict):
        raise SettingsError(f"--compare {path}", "holds no figures", remedy)
    return found


def compared(figures: Mapping[str, Figure], earlier: Mapping[str, Figure]) -> dict[str, float]:
    """Divide each number by that of the earlier run, where both have it.

    Quotients of times also compare the machines; quotients of ratios compare the product alone.
    """
    both = {name: (value, earlier.get(name)) for name, value in figures.items()}
    return {
        name: now / then
        for name, (now, then) in both.items()
        if isinstance(now, int | float) and isinstance(then, int | float) and then
    }


def table(figures: Mapping[str, Figure], ratios: Mapping[str, float], targets: Mapping[str, Target]) -> str:
    """Format the figures for a person, with their targets and the quotients by an earlier run."""
    lines = []
    for name, value in figures.items():
        shown = value if isinstance(value, str) else f"{value:g}"
        verdict = targets[name].verdict(value) if name in targets and not isinstance(value, str) else ""
        then = f"x {ratios[name]:.3g}" if name in ratios else ""
        lines.append(f"{name:<28} {shown:<12} {then:<10} {verdict}".rstrip() + "\n")
    return "".join(lines)
