"""Figures of orders of annotation: areas under learning curves, against random order, and minutes, over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from worker.lab.evaluation.active_loop import Run

RANDOM = "random"
"""The order that the others are compared with."""

OUTCOMES = ("accepted", "changed", "deleted", "added")
"""What becomes of regions, as `worker.lab.evaluation.annotator.Correction` counts them."""

_MOMENTS = 1000  # at which two curves are compared

SeedFigures = Mapping[str, Any]
"""What one seed gives, as JSON: `seconds` that it took, `images` to choose from, and for each of `orders` the number of
`corrected` images of each round, `miou` and `promoted` after it, `minutes` and `minutes_from_scratch` of each corrected
image, and the number of regions of each of OUTCOMES."""


@dataclass(frozen=True)
class Interval:
    """A mean over seeds with its 95 % interval by Student's t; the ends are None for a single seed."""

    mean: float
    low: float | None
    high: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Interval:
        """Of one value or more."""
        mean, count = float(np.mean(values)), len(values)
        if count < 2:
            return cls(round(mean, 6), None, None)
        half = float(stats.t.ppf(0.975, count - 1)) * float(np.std(values, ddof=1)) / float(np.sqrt(count))
        return cls(round(mean, 6), round(mean - half, 6), round(mean + half, 6))

    def __str__(self) -> str:
        """For a table, signed."""
        if self.low is None or self.high is None:
            return f"{self.mean:+.3f}"
        return f"{self.mean:+.3f} ({self.low:+.3f} to {self.high:+.3f})"


def seed_figures(runs: Mapping[str, Run], images: int, seconds: float) -> SeedFigures:
    """What one seed gives; see `SeedFigures`."""
    orders = {
        name: {
            "corrected": [one.corrected for one in run.rounds],
            "miou": [round(one.miou, 4) for one in run.rounds],
            "promoted": [one.promoted for one in run.rounds],
            "minutes": [round(one.seconds / 60, 2) for one in run.corrections],
            "minutes_from_scratch": [round(one.from_scratch / 60, 2) for one in run.corrections],
            **{outcome: sum(getattr(one, outcome) for one in run.corrections) for outcome in OUTCOMES},
        }
        for name, run in runs.items()
    }
    return {"seconds": round(seconds, 1), "images": images, "orders": orders}


def area(row: Mapping[str, Any]) -> float:
    """Area under the learning curve of an order, from the first corrected image to the last, as a mean IoU: what was
    served on average while they were corrected.
    """
    corrected, miou = np.array(row["corrected"][1:]), np.array(row["miou"][1:])
    if len(corrected) == 1:
        return float(miou[0])
    return float(np.trapezoid(miou, corrected) / (corrected[-1] - corrected[0]))


def gain_per_minute(row: Mapping[str, Any], other: Mapping[str, Any]) -> float | None:
    """How much better what an order had served was, on average over the simulated minutes that it and another order
    both took, as a mean IoU: images that teach more may take longer. None where one round alone was measured.
    """
    (minutes, miou), (others, other_miou) = _by_minutes(row), _by_minutes(other)
    begin, end = max(minutes[0], others[0]), min(minutes[-1], others[-1])
    if end <= begin:
        return None
    moments = np.linspace(begin, end, _MOMENTS)
    gained = np.interp(moments, minutes, miou) - np.interp(moments, others, other_miou)
    return float(np.trapezoid(gained, moments) / (end - begin))


def _by_minutes(row: Mapping[str, Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Minutes until each round, from the first corrected image on, and the mean IoU after it."""
    after = np.cumsum(row["minutes"])
    return after[np.array(row["corrected"][1:]) - 1], np.array(row["miou"][1:], np.float64)


def summary(seeds: Sequence[SeedFigures]) -> dict[str, Any]:
    """The figures of one set over its seeds, all with the same orders and numbers of images.

    Returns:
        JSON: `corrected`, the numbers of images of the rounds; for each of `orders` the mean of `miou`, `area`,
        `promoted` (share of the seeds), `minutes` and `minutes_from_scratch` (cumulative, by corrected image) and of
        OUTCOMES; and `against_random`: for each other order the paired difference of areas and its interval, and
        `per_minute` the same of `gain_per_minute`, without those for which it is None.
    """
    first = seeds[0]
    areas = {name: [area(one["orders"][name]) for one in seeds] for name in first["orders"]}
    orders = {
        name: {
            "area": round(float(np.mean(areas[name])), 6),
            "miou": _means(seeds, name, "miou"),
            "promoted": _means(seeds, name, "promoted"),
            "minutes": [round(float(value), 2) for value in np.cumsum(_means(seeds, name, "minutes"))],
            "minutes_from_scratch": [
                round(float(value), 2) for value in np.cumsum(_means(seeds, name, "minutes_from_scratch"))
            ],
            **{outcome: round(float(np.mean([one["orders"][name][outcome] for one in seeds])), 1)
               for outcome in OUTCOMES},
        }
        for name in first["orders"]
    }  # fmt: skip
    against = {
        name: vars(Interval.of([one - other for one, other in zip(values, areas[RANDOM], strict=True)]))
        for name, values in areas.items()
        if name != RANDOM and RANDOM in areas
    }
    gains = {
        name: [gain_per_minute(one["orders"][name], one["orders"][RANDOM]) for one in seeds] for name in against
    }
    per_minute = {name: vars(Interval.of([one for one in found if one is not None]))
                  for name, found in gains.items() if None not in found}  # fmt: skip
    return {
        "seeds": len(seeds), "images": first["images"], "corrected": next(iter(first["orders"].values()))["corrected"],
        "orders": orders, "against_random": against, "per_minute": per_minute,
        "seconds_per_seed": round(float(np.median([one["seconds"] for one in seeds])), 1),
    }  # fmt: skip


def _means(seeds: Sequence[SeedFigures], order: str, key: str) -> list[float]:
    rows = np.array([one["orders"][order][key] for one in seeds], dtype=np.float64)
    return [round(float(value), 4) for value in rows.mean(axis=0)]


def table(found: Mapping[str, Any]) -> str:
    """Format a summary for a person."""
    lines = ["order      " + "".join(f"{count:>7}" for count in found["corrected"]) + "   area  against random"]
    for name, row in found["orders"].items():
        against = found["against_random"].get(name)
        told = str(Interval(**against)) if against else ""
        lines.append(f"{name:<11}" + "".join(f"{miou:>7.3f}" for miou in row["miou"]) + f"  {row['area']:.3f}  {told}")
    for name, row in found["orders"].items():
        lines.append(f"{name}: {row['minutes'][-1]:.0f} minutes for {len(row['minutes'])} images, "
                     f"{row['minutes_from_scratch'][-1]:.0f} from scratch")  # fmt: skip
    return "\n".join(lines) + "\n"
