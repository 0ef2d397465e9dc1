"""Older path of `worker.lab.evaluation`: `__path__` keeps `python -m worker.evaluation.score` and its like alive."""

from pathlib import Path

__path__ = [str(Path(__file__).parents[1] / "lab" / "evaluation")]
