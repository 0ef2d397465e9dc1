"""How long N workers take for M tasks, from stage times: worked examples, and the threads that a worker really has."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from plugin_config.capacity import FETCHERS, POSTERS, Shift, StageSeconds, seconds_for, seconds_in_shifts
from plugin_config.errors import EnvironmentBroken
from worker.label_studio.fair_share import FairSlots
from worker.service import pipeline

MODEL_BOUND = StageSeconds(fetch=0.2, embed=0.1, segment=0.05, post=0.1)


@pytest.mark.parametrize(
    ("stages", "pace_s"),
    [
        pytest.param(MODEL_BOUND, 0.1, id="encoder"),
        pytest.param(StageSeconds(0.2, 0.05, 0.1, 0.1), 0.1, id="drawing"),
        pytest.param(StageSeconds(1.6, 0.1, 0.1, 0.1), 0.2, id="slow images, eight at a time"),
        pytest.param(StageSeconds(0.2, 0.1, 0.1, 1.2), 0.3, id="slow Label Studio, four posts at a time"),
    ],
)
def test_the_slowest_stage_sets_the_pace(stages: StageSeconds, pace_s: float) -> None:
    assert stages.pace_s == pytest.approx(pace_s)
    assert seconds_for(1000, 1, stages) == pytest.approx(1000 * pace_s + stages.way_s - pace_s)


def test_workers_add_up_until_what_they_share_is_busy() -> None:
    way = MODEL_BOUND.way_s - MODEL_BOUND.pace_s
    assert seconds_for(1000, 4, MODEL_BOUND) == pytest.approx(25 + way)
    assert seconds_for(1000, 4, MODEL_BOUND, shared_s=0.05) == pytest.approx(50 + way)
    assert seconds_for(1000, 40, MODEL_BOUND, shared_s=0.05) == pytest.approx(50 + way)
    assert seconds_for(1000, 1, MODEL_BOUND, shared_s=0.05) == pytest.approx(100 + way)


def test_workers_that_die_and_come_count_while_they_run() -> None:
    # 10 s of four workers are 400 tasks, 10 s of none are none, 600 are left for two: 30 s.
    shifts = [Shift(0, 4), Shift(10, 0), Shift(20, 2)]
    assert seconds_in_shifts(1000, shifts, MODEL_BOUND) == pytest.approx(50 + MODEL_BOUND.way_s - 0.1)
    assert seconds_in_shifts(400, shifts, MODEL_BOUND) == pytest.approx(10 + MODEL_BOUND.way_s - 0.1)


def test_nothing_to_do_takes_no_time_and_nobody_to_do_it_is_an_error() -> None:
    assert seconds_for(0, 0, MODEL_BOUND) == 0
    with pytest.raises(EnvironmentBroken, match="600 tasks are left"):
        seconds_in_shifts(1000, [Shift(0, 4), Shift(10, 0)], MODEL_BOUND)
    with pytest.raises(EnvironmentBroken, match="none runs"):
        seconds_in_shifts(1000, [], MODEL_BOUND)


def test_a_worker_has_these_threads() -> None:
    slots, one_project = FairSlots(pipeline._FETCHERS, reserved=pipeline._FETCHERS_RESERVED), 0
    while slots.available("project", "host", urgent=False):
        slots.acquire("project", "host", urgent=False)
        one_project += 1
    stages: Any = None  # no thread gets a task
    running = pipeline.Pipeline(stages, capacity=1, batch=1, stopping=threading.Event())
    try:
        names = [thread.name.rpartition("-")[0] for thread in running._threads]
    finally:
        running.close(grace_s=0)
    assert (one_project, names.count("post"), names.count("embed"), names.count("draw")) == (FETCHERS, POSTERS, 1, 1)
