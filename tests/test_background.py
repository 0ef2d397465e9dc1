"""Background duties: a fault is logged once, shown for a while, and followed by a pause."""

from __future__ import annotations

import pytest

from plugin_config import background
from plugin_config.background import Duty, DutyWatch
from plugin_config.errors import QueueDamaged, QueueUnavailable


def fail() -> None:
    raise ValueError("a fault of ours")


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The clock, set by hand."""
    moment = [1000.0]
    monkeypatch.setattr("plugin_config.background.time.monotonic", lambda: moment[0])
    return moment


def test_each_pause_is_twice_the_last_and_none_is_too_long(now: list[float], caplog: pytest.LogCaptureFixture) -> None:
    work, pauses = Duty("work"), []
    for _ in range(9):
        assert not work.run(fail)
        pauses.append(work.pause_s())
        assert not work.run(lambda: pytest.fail("it pauses"))
        now[0] += work.pause_s()
    assert pauses == [0.5, 1, 2, 4, 8, 16, 32, 60, 60]
    assert caplog.text.count("Traceback") == 1
    assert work.run(lambda: None)
    assert not work.run(fail)
    assert work.pause_s() == 0.5


def test_a_fault_is_shown_for_a_while(now: list[float]) -> None:
    watch = DutyWatch()
    work = watch.duty("work")
    assert watch.trouble() == ""
    work.run(fail)
    now[0] += background.FAULT_SHOWN_S
    assert watch.trouble() == "work: ValueError: a fault of ours (1 times so far); see the log"
    now[0] += 1
    assert watch.trouble() == ""


def test_damage_is_a_fault_and_absence_is_none() -> None:
    work = Duty("work")

    def damaged() -> None:
        raise QueueDamaged("Redis", "holds something", "Look.")

    def away() -> None:
        raise QueueUnavailable("Redis", "does not answer", "Start it.")

    with pytest.raises(QueueUnavailable):
        work.run(away)
    assert work.trouble == ""
    assert not work.run(damaged)
    assert "holds something" in work.trouble


def test_of_many_duties_with_faults_few_are_shown() -> None:
    watch = DutyWatch()
    for _ in range(8):
        watch.duty("the step").run(fail)
    for number in range(8):
        watch.duty(f"step {number}").run(fail)
    assert watch.trouble().count("fault") == 5
