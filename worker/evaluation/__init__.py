"""The path that the commands of `worker.lab.evaluation` had: `python -m worker.evaluation.score` still runs."""

from pathlib import Path

__path__ = [str(Path(__file__).parents[1] / "lab" / "evaluation")]
