"""The weights shipped as `MODEL=builtin`. Their training is in `worker.lab.drawn_world`.

`__path__` keeps older command lines alive: `python -m worker.builtin.draw`, `... .train`, `... .export`, `... .curves`.
"""

from pathlib import Path

__path__ = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "lab" / "drawn_world")]
