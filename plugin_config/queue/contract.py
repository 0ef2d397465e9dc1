"""The number of the contract: what the arguments of jobs and the records in Redis mean.

Parts of two releases meet in one Redis while an installation is upgraded. A part reads what older contracts wrote, and
leaves alone what a newer one asked for: jobs of each contract have queues of their own (`keys`), and a project is left
alone from the moment a newer part has asked for tasks of it (`scripts`). What raises the number stands in
docs/architecture.md.
"""

from __future__ import annotations

from collections.abc import Mapping

CONTRACT = 1
"""Of this code. Modules read it when they are imported."""


def contract_of(about: Mapping[str, str]) -> int:
    """The contract that a worker says it has; the first one, which had no number yet, where it says none.

    Args:
        about: what it says about itself, see `presence.WorkerState`.
    """
    said = about.get("contract", "")
    return int(said) if said.isdecimal() and len(said) < 10 else 1


def contract_remark(about: Mapping[str, str]) -> str:
    """What people should know about the contract of a worker; "" = it is that of this code.

    Args:
        about: what the worker says about itself.
    """
    has, here = contract_of(about), CONTRACT
    if has < here:
        return f"it has contract {has}, here it is {here}: newer jobs are left to others until it is upgraded"
    if has > here:
        return f"it has contract {has}, here it is {here}: this installation is older, upgrade it"
    return ""
