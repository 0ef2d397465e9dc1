"""All kinds of generated input, in the order in which they are tried."""

from __future__ import annotations

from tests.fuzz import addresses, configs, pictures, results, wire
from tests.fuzz.verdicts import Kind

KINDS: tuple[Kind, ...] = (wire.KIND, configs.KIND, results.KIND, pictures.KIND, addresses.KIND)
