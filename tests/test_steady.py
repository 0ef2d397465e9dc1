"""Work that goes on whatever happens: a fault is logged once, told for a while, and rested after."""

from __future__ import annotations

import pytest

from plugin_config import steady
from plugin_config.errors import QueueDamaged, QueueUnavailable
from plugin_config.steady import Steady, Watch


def fail() -> None:
    raise ValueError("a fault of ours")


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The clock, set by hand."""
    moment = [1000.0]
    monkeypatch.setattr("plugin_config.steady.time.monotonic", lambda: moment[0])
    return moment


def test_each_pause_is_twice_the_last_and_none_is_too_long(now: list[float], caplog: pytest.LogCaptureFixture) -> None:
    work, rests = Steady("work"), []
    for _ in range(9):
        assert not work.run(fail)
        rests.append(work.rest_s())
        assert not work.run(lambda: pytest.fail("it rests"))
        now[0] += work.rest_s()
    assert rests == [0.5, 1, 2, 4, 8, 16, 32, 60, 60]
    assert caplog.text.count("Traceback") == 1
    assert work.run(lambda: None)
    assert not work.run(fail)
    assert work.rest_s() == 0.5


def test_a_fault_is_told_for_a_while(now: list[float]) -> None:
    watch = Watch()
    work = watch.steady("work")
    assert watch.trouble() == ""
    work.run(fail)
    now[0] += steady.TOLD_S
    assert watch.trouble() == "work: ValueError: a fault of ours (1 times so far); the log tells where"
    now[0] += 1
    assert watch.trouble() == ""


def test_damage_is_a_fault_and_absence_is_none() -> None:
    work = Steady("work")

    def damaged() -> None:
        raise QueueDamaged("Redis", "holds something", "Look.")

    def away() -> None:
        raise QueueUnavailable("Redis", "does not answer", "Start it.")

    with pytest.raises(QueueUnavailable):
        work.run(away)
    assert work.trouble == ""
    assert not work.run(damaged)
    assert "holds something" in work.trouble


def test_of_many_with_the_same_to_tell_few_are_told() -> None:
    watch = Watch()
    for _ in range(8):
        watch.steady("the step").run(fail)
    for number in range(8):
        watch.steady(f"step {number}").run(fail)
    assert watch.trouble().count("fault") == 5
