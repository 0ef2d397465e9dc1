"""The weights shipped as `MODEL=builtin`. What made them is `worker.lab.drawn_world`.

Its commands also answer to the paths they had here: `python -m worker.builtin.draw`, `... .train`, `... .export`.
"""

from pathlib import Path

__path__ = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "lab" / "drawn_world")]
