"""`python -m tests.next_contract MODULE [ARGUMENT ...]`: a part of the product as a later release may be.

Its contract is one higher, and its drains carry one field more, which workers of this contract would refuse as forged.
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self


def raise_contract() -> None:
    """Change the contract before any other module has read it."""
    from plugin_config.queue import contract

    contract.CONTRACT += 1

    from plugin_config.queue import jobs

    @dataclass(frozen=True)
    class DrainProject(jobs.DrainProject):
        """A drain with the time it may take, which those of this contract lack."""

        most_s: int = 60

        @classmethod
        def from_json(cls, data: Mapping[str, Any]) -> Self:
            return super().from_json({"most_s": 60, **data})

    jobs.DrainProject = DrainProject  # type: ignore[misc]


if __name__ == "__main__":
    raise_contract()
    module, *arguments = sys.argv[1:]
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
