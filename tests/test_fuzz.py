"""Some hundreds of the inputs of `make fuzz`, the same ones each time: none crashes, hangs or passes in silence.

What counts as that is said by the judge of each kind; see `tests.fuzz`. How soon an input must be read is judged by
`make fuzz` alone: the machine of a test run may be busy.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.fuzz import __main__ as command
from tests.fuzz import faulty
from tests.fuzz.kinds import KINDS
from tests.fuzz.trial import SEED, failed, run
from tests.fuzz.verdicts import FAILURES, Kind, Tally, judge_sentence


@pytest.mark.parametrize("kind", [pytest.param(kind, id=kind.name) for kind in KINDS])
def test_malformed_input_costs_itself_alone_and_is_told(kind: Kind) -> None:
    tally = run(replace(kind, most_s=4 * kind.most_s), number=SEED, count=kind.short)
    assert tally.failures == []
    assert tally.tried >= kind.short // 2
    assert tally.fates["told"] and tally.fates["taken"], "the inputs are all of one sort"
    assert not failed([tally])


def test_what_a_judge_must_find_is_found_and_the_rest_goes_on() -> None:
    tally = run(replace(faulty.KIND, most_s=3.0), number=1, count=30)
    causes = {failure.cause: failure.example for failure in tally.failures}
    assert causes == {
        "crashed: KeyError in tests/fuzz/faulty.py:__call__": "1", "crashed: the process died (-11)": "2",
        "silent: silent": "3", "hung: no answer": "4",
    }  # fmt: skip
    assert tally.tried == 6 and tally.fates["taken"] == 2
    assert failed([tally])


@pytest.mark.parametrize(
    ("sentence", "fate"),
    [
        pytest.param("image of task 7: is not a readable image. Convert it.", "told", id="clear"),
        pytest.param("is not a readable image. Convert it.", "unclear", id="no subject"),
        pytest.param("image of task 7 is broken", "unclear", id="no remedy"),
        pytest.param("image of task 7: <Image object at 0x7f00>. Convert it.", "unclear", id="the inside"),
        pytest.param("image of task 7: is at sekrit. Convert it.", "leaked", id="the token"),
        pytest.param("image of task 7: " + "a" * 2000 + ".", "unclear", id="without end"),
    ],
)
def test_a_message_is_judged(sentence: str, fate: str) -> None:
    assert judge_sentence(sentence, "image of task 7", secret="sekrit").fate == fate


def test_the_report_has_the_sums_and_the_examples() -> None:
    tally = Tally("a kind")
    tally.fates.update(taken=3, told=4, silent=1)
    report = command.report([tally], 5)
    assert (report["tried"], report["silent"], report["crashed"], report["seed"]) == (8, 1, 0, 5)
    assert set(FAILURES) <= set(report) and report["kinds"]["a kind"]["told"] == 4
    assert failed([tally])
