"""Older path of `worker.lab.benchmarks`: `__path__` keeps `python -m worker.benchmarks.towers` and its like alive."""

from pathlib import Path

__path__ = [str(Path(__file__).parents[1] / "lab" / "benchmarks")]
