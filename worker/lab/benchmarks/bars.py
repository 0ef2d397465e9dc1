"""What the figures have to reach, and how two runs of them are compared. It must not know how they are measured."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from plugin_config.errors import SettingsError

Figure = float | str


@dataclass(frozen=True)
class Bar:
    """A figure is to be at least, or at most, this."""

    least: float | None = None
    most: float | None = None

    def verdict(self, value: float) -> str:
        """The bar in words, and whether it is met."""
        met = (self.least is None or value >= self.least) and (self.most is None or value <= self.most)
        wanted = f"at most {self.most:g}" if self.least is None else f"at least {self.least:g}"
        return f"{wanted}: {'met' if met else 'MISSED'}"


# For ViT-B-16 at 448 pixels on a CPU.
BARS: Mapping[str, Bar] = {
    "overhead": Bar(most=1.25),
    "one_stage_speedup": Bar(least=15),
    "one_stage_speedup_20": Bar(least=3.5),
    "shape_speedup": Bar(least=10),
    "labels_20_to_40": Bar(most=0.05),
    "encode_smooth_speedup": Bar(least=1),
    "encode_noisy_speedup": Bar(least=10),
    "sdk_decodes_alike": Bar(least=1),
}


def read_figures(path: Path) -> dict[str, Figure]:
    """The figures of an earlier run, as `--json` printed them.

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
    """Now over then, for every number that both have. Times compare machines; ratios compare the product."""
    both = {name: (value, earlier.get(name)) for name, value in figures.items()}
    return {
        name: now / then
        for name, (now, then) in both.items()
        if isinstance(now, int | float) and isinstance(then, int | float) and then
    }


def table(figures: Mapping[str, Figure], ratios: Mapping[str, float], bars: Mapping[str, Bar]) -> str:
    """Figures for a person, with their bars, and how they compare where they do."""
    lines = []
    for name, value in figures.items():
        told = value if isinstance(value, str) else f"{value:g}"
        bar = bars[name].verdict(value) if name in bars and not isinstance(value, str) else ""
        then = f"x {ratios[name]:.3g}" if name in ratios else ""
        lines.append(f"{name:<28} {told:<12} {then:<10} {bar}".rstrip() + "\n")
    return "".join(lines)
