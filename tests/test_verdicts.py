"""The last verdict on a project stays readable until a newer one; real Redis and files, stand-in recipe and gate."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from plugin_config.cli.status import as_json, render
from plugin_config.overview.control import QueueControl
from plugin_config.queue.keys import ProjectKeys
from plugin_config.versions.manifests import Attempt, Contender, Pointer, VerdictRecord
from plugin_config.versions.verdicts import (
    CORRECTIONS,
    LastVerdict,
    last_verdict,
    last_verdicts,
    verdict_of,
    write_verdict,
)
from tests.learning_house import LearningHouse, learning_house_fixture
from tests.stand_ins import PROJECT

__all__ = ["learning_house_fixture"]  # pytest finds the fixture by its being here

NOT = VerdictRecord(False, "kept what is served: no better.")


@pytest.fixture
def house(learning_house: LearningHouse) -> LearningHouse:
    return learning_house


def last(house: LearningHouse) -> LastVerdict:
    found = last_verdict(house.redis, PROJECT, "builtin")
    assert found is not None
    return found


def test_a_verdict_stays_with_its_reason_until_a_newer_one(house: LearningHouse) -> None:
    assert last_verdict(house.redis, PROJECT, "builtin") is None
    house.promotes = False
    house.annotate(3, digest="one")
    house.look()
    refused = last(house)
    assert (refused.promoted, refused.reason, refused.source) == (False, NOT.reason, CORRECTIONS)
    house.mark = replace(house.mark, changed=0)
    assert house.look().detail == "nothing is new"
    assert last(house) == refused
    house.promotes = True
    house.annotate(6, digest="two")
    house.look()
    promoted = last(house)
    assert (promoted.promoted, promoted.reason) == (True, "promoted at strength 1: better.")
    assert promoted.version == house.served


def test_a_lost_redis_gets_it_again_from_disk(house: LearningHouse) -> None:
    house.promotes = False
    house.annotate(3, digest="one")
    house.look()
    before = last(house)
    house.redis.flushall()
    house.resident.adapters.served(house.label_studio.project(PROJECT), from_disk=True)
    assert last(house) == before


def test_status_shows_it_beside_what_comes_next(house: LearningHouse) -> None:
    house.promotes = False
    house.annotate(3, digest="one")
    house.look()
    house.mark = replace(house.mark, changed=0)
    house.look()
    house.resident.adapters.served(house.label_studio.project(PROJECT), from_disk=True)
    control = QueueControl(house.redis, house.settings)
    console = Console(width=250, record=True, file=io.StringIO())
    console.print(render(control.state()))
    text = console.export_text()
    for shown in ("zero-shot", NOT.reason, "nothing is new", "up to date"):
        assert shown in text
    (row,) = as_json(control.state())["learning"]
    assert row["verdict"]["reason"] == NOT.reason


def attempt(at: str, verdict: VerdictRecord) -> Attempt:
    return Attempt("digest", 3, "", "hash", at, verdict)


@pytest.mark.parametrize(
    ("pointer", "reason"),
    [
        pytest.param(Pointer(), None, id="nothing was judged"),
        pytest.param(Pointer(attempt=attempt("2026-01-01", VerdictRecord(False, ""))), None, id="read, not judged"),
        pytest.param(Pointer(attempt=attempt("2026-01-01", NOT)), NOT.reason, id="of corrections"),
        pytest.param(
            Pointer(attempt=attempt("2026-01-01", NOT),
                    contenders={"offered": Contender("lseg", "offered: lseg", "2026-01-02", VerdictRecord(True, "b"))}),
            "b", id="of an offer that is newer",
        ),
        pytest.param(
            Pointer(attempt=attempt("2026-01-03", NOT),
                    contenders={"offered": Contender("lseg", "offered: lseg", "2026-01-02", VerdictRecord(True, "b"))}),
            NOT.reason, id="of corrections after an offer",
        ),
    ],
)  # fmt: skip
def test_the_newest_verdict_counts(pointer: Pointer, reason: str | None) -> None:
    found = verdict_of(pointer)
    assert (found.reason if found else None) == reason


def test_what_cannot_be_read_counts_as_none(house: LearningHouse) -> None:
    owner = house.folder.owner
    write_verdict(house.redis, owner, LastVerdict("2026-01-01", promoted=False, reason="no\x1b[31m", source="s"))
    house.redis.hset(ProjectKeys(PROJECT).verdicts, "other", '{"at": 3}')
    assert {model: row.reason for model, row in last_verdicts(house.redis, PROJECT).items()} == {
        "builtin": "no\ufffd[31m"
    }
    write_verdict(house.redis, owner, None)
    assert last_verdict(house.redis, PROJECT, "builtin") is None
