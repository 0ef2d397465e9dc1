"""Seven of the faults of `make faults`, in a short form: nothing is lost, nothing is doubled.

Redis, backend, workers and Label Studio are real, and so is the proxy between them; see `tests.faults.rows`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tests.faults import rows
from tests.faults.fleet_rows import worker_cut_off
from tests.faults.learning_rows import finetune_killed
from tests.faults.stand import Furnished, Row, Serving, stand
from tests.house import House


@dataclass
class Running:
    """The Label Studio that serves the whole test run."""

    url: str


KILLED = ((rows.redis_killed, 0.34), (rows.worker_killed, 0.1), (rows.backend_restarted, 0.5))
"""Faults that one product meets one after the other, and how many of each."""


def test_a_killed_redis_worker_and_backend_lose_and_double_nothing(house: House) -> None:
    with stand(Running(house.label_studio.url), workers=2) as it:
        for fault, scale in KILLED:
            check(fault(Furnished(house.label_studio.url, it), scale))


@pytest.mark.parametrize(
    ("fault", "scale"),
    [
        pytest.param(rows.answers_lost, 0.3, id="500s and lost answers"),
        pytest.param(rows.webhooks_repeated, 0.3, id="duplicate webhooks"),
        pytest.param(worker_cut_off, 0.1, id="one of four killed, one cut off"),
        pytest.param(finetune_killed, 0.1, id="fine-tune kill -9"),
    ],
)
def test_a_fault_loses_and_doubles_nothing(house: House, fault: Callable[[Serving, float], Row], scale: float) -> None:
    check(fault(Running(house.label_studio.url), scale))


def check(row: Row) -> None:
    assert (row.predicted, row.failed, row.duplicated, row.lost) == (row.submitted, 0, 0, 0), row
