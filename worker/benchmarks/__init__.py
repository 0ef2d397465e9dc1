"""The path that the commands of `worker.lab.benchmarks` had: `python -m worker.benchmarks.towers` still runs."""

from pathlib import Path

__path__ = [str(Path(__file__).parents[1] / "lab" / "benchmarks")]
