"""Some of the attacks of `make attack`, in a short form: they get nowhere and nothing is lost.

Redis, backend, worker and Label Studio are real; see `tests.attack`. How long others wait meanwhile is judged by
`make attack` alone: the machine of a test run may be busy.
"""

from __future__ import annotations

import pytest

from tests.attack import doors, pictures, tampering
from tests.attack.ground import MOST_MB
from tests.attack.rows import Attack
from tests.house import House
from tests.test_faults import Running


@pytest.mark.parametrize(
    ("attack", "scale"),
    [
        pytest.param(pictures.token_leaves, 0.2, id="token"),
        pytest.param(doors.sign_in, 0.1, id="sign-in"),
        pytest.param(tampering.forged_jobs, 0.2, id="forged jobs"),
    ],
)
def test_an_attack_gets_nowhere(house: House, attack: Attack, scale: float) -> None:
    row = attack(Running(house.label_studio.url), scale)
    assert (row.resisted, row.lost) == (True, 0), row
    assert max(row.grown_mb.values()) < MOST_MB, row
