"""What the model's card in Label Studio tells; real Redis, stand-in Label Studio and model."""

from __future__ import annotations

import time

import pytest

from plugin_config.errors import LabelStudioError, LabelStudioFailing
from plugin_config.queue.keys import ProjectKeys
from plugin_config.versions.manifests import Owner
from plugin_config.versions.verdicts import LastVerdict, write_verdict
from tests.stand_ins import CONFIG, PROJECT, StandInContext, context_fixture, version

__all__ = ["context_fixture"]  # pytest finds the fixture by its being here

UNREAD = "label 'zeppelin': unknown"
HERE, ELSEWHERE = "http://localhost:9090", "http://models.example.com:9090"


@pytest.fixture
def house(context: StandInContext) -> StandInContext:
    context.label_studio.cards = [
        {"id": 3, "url": HERE, "title": "Our masks", "auth_method": "NONE"},
        {"id": 4, "url": ELSEWHERE, "title": "Another", "auth_method": "NONE"},
    ]
    context.label_studio.config = CONFIG.format("zeppelin")
    return context


def cards(house: StandInContext) -> list[str]:
    return [row["title"] for row in house.label_studio.cards]


def test_labels_that_cannot_be_read_are_told_behind_the_title_until_they_can(house: StandInContext) -> None:
    house.reconcile()
    assert cards(house) == [f"Our masks ▸ {UNREAD}", "Another"]
    house.reconcile()
    assert len(house.label_studio.renamed) == 1, "told once"
    house.label_studio.config = CONFIG.format("cat")
    house.reconcile()
    assert cards(house) == ["Our masks", "Another"]


def test_the_last_verdict_is_told_and_replaced(house: StandInContext) -> None:
    house.label_studio.config = CONFIG.format("cat")
    owner = Owner("http://ls", PROJECT, "", "builtin")
    for reason in ("kept: no better.", "promoted: better."):
        verdict = LastVerdict("2026-11-30T01:02:03+00:00", promoted=False, reason=reason, source="corrections")
        write_verdict(house.redis, owner, verdict)
        house.reconcile()
        assert cards(house)[0] == f"Our masks ▸ 2026-11-30 01:02: {reason}"


@pytest.mark.parametrize("shown", ["Our masks", "Our masks ▸ 2026-11-29 08:00: kept: no better."])
def test_a_new_title_keeps_nobody_from_being_shown_the_version(house: StandInContext, shown: str) -> None:
    """Label Studio shows a project the predictions of the model of this title, and renames that along with it."""
    house.label_studio.shown = house.label_studio.cards[0]["title"] = shown
    house.ledger.add_version(PROJECT, version("zeppelin"))
    house.reconcile()
    assert cards(house)[0] == f"Our masks ▸ {UNREAD}"
    assert house.label_studio.shown == version("zeppelin")


def test_where_all_is_well_label_studio_is_not_asked(house: StandInContext) -> None:
    house.label_studio.config = CONFIG.format("cat")
    house.reconcile()
    assert house.label_studio.asked == 0


def test_a_title_that_is_stored_over_it_is_told_again_at_the_next_reconcile(house: StandInContext) -> None:
    """As Label Studio does with the title it had, where somebody opens its page of models meanwhile."""
    house.reconcile()
    house.label_studio.cards[0]["title"] = "Our masks"
    house.reconcile()
    assert cards(house)[0] == f"Our masks ▸ {UNREAD}"


def test_a_model_that_is_connected_anew_tells_it_too(house: StandInContext) -> None:
    house.reconcile()
    house.reconcile()  # sees that it is told
    house.label_studio.cards[0]["title"] = "Zeromask"
    house.reconcile()
    assert cards(house)[0] == "Zeromask", "Label Studio is not asked each minute"
    house.redis.pexpire(ProjectKeys(PROJECT).carded, 1)
    time.sleep(0.01)
    house.reconcile()
    assert cards(house)[0] == f"Zeromask ▸ {UNREAD}"


def test_a_sign_in_stays(house: StandInContext) -> None:
    house.label_studio.cards[0] |= {"auth_method": "BASIC_AUTH", "basic_auth_user": "ls"}
    house.reconcile()
    (body,) = house.label_studio.renamed
    assert (body["url"], body["auth_method"], body["basic_auth_user"], body["basic_auth_pass"]) == (
        HERE, "BASIC_AUTH", "ls", "",
    )  # fmt: skip


def test_a_refusal_is_no_trouble_and_an_outage_is_made_up_for(house: StandInContext) -> None:
    def fails() -> None:
        raise LabelStudioFailing("Label Studio", "answered HTTP 502", "Wait.", status=502)

    def refuses() -> None:
        raise LabelStudioError("PATCH", "was refused (HTTP 403)", "Ask.", status=403)

    house.label_studio.before_rename = fails
    house.reconcile()
    assert house.ledger.card_note(PROJECT) is None
    assert house.ledger.target_version(PROJECT) == version("zeppelin"), "the rest of the reconcile was done"
    house.label_studio.before_rename = refuses
    house.reconcile()
    assert house.ledger.card_note(PROJECT) == UNREAD
