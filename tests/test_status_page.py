"""The status page over HTTP, on a real Redis and real versions: what it shows, what its buttons do, whom it refuses."""

from __future__ import annotations

import json
import re
import threading
import time
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from falcon.testing import Result
from redis import Redis

from backend.status import reading
from backend.status.forms import COOKIE
from backend.status.page import MOST_UPDATE, Box, Page, Part
from plugin_config.errors import VersionsUnavailable
from plugin_config.overview.versions import read_versions
from plugin_config.queue.clicks import ClickQueue
from plugin_config.queue.jobs import TaskRef, predict_queue
from plugin_config.queue.pending import PendingTasks
from plugin_config.queue.presence import WorkerPresence
from plugin_config.queue.titles import set_title
from plugin_config.settings import Settings
from plugin_config.versions.manifests import Pointer, VersionFolder
from plugin_config.versions.served import ServedAdapters, ServedCopy
from tests import status_load
from tests.backend_client import Client, ClientOf, client_fixture, client_of_fixture, patient_fixture
from tests.house import wait_until
from tests.status_projects import LABEL_STUDIO, PROJECT, VERSION, fill, keep_alive, learn_versions, owner_of

__all__ = ["client_fixture", "client_of_fixture", "patient_fixture"]  # pytest finds fixtures by their being here

PAGE = f"/status/project?id={PROJECT}"
HOST = "127.0.0.1"
HERE = {"Origin": f"http://{HOST}", "Sec-Fetch-Site": "same-origin"}
_VOID = {"meta", "link", "input", "line", "circle", "polyline"}


class Document(HTMLParser):
    """Reads a page strictly: every element is closed in its turn. Keeps ids, tags with attributes, and text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        assert len(found) == len(attrs)
        self.tags.append((tag, found))
        self.ids += [str(found["id"])] if "id" in found else []
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in _VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def read(client: Client, path: str, *, status: int = 200) -> Document:
    answer = client.get(path)
    assert answer.status_code == status, answer.text
    page = Document(answer.text)
    assert len(page.ids) == len(set(page.ids)), "an update replaces by id"
    return page


def press(client: Client, action: str, *, project: int = PROJECT, **changes: Any) -> Result:
    """Press a button as a browser does: with the cookie and the token of the page."""
    opened = client.get(f"/status/project?id={project}")
    token = opened.cookies[COOKIE].value if COOKIE in opened.cookies else ""
    fields = {"token": token, "project": str(project), "action": action, **changes.pop("fields", {})}
    body = "&".join(f"{name}={value}" for name, value in fields.items()).encode()
    headers = {**HERE, "Cookie": f"{COOKIE}={token}", **changes.pop("headers", {})}
    sent = {"data": body, "content_type": "application/x-www-form-urlencoded", **changes}
    headers = {name: value for name, value in headers.items() if value}
    return client.post("/status/project", headers=headers, **sent)


@pytest.fixture
def names(redis: Redis, tmp_path: Path) -> list[str]:
    """Two projects; names of the versions of one of them, of which the second is served."""
    fill(redis, projects=2, tasks=40)
    return learn_versions(redis, tmp_path / "versions")


def test_all_projects_are_shown_with_workers_and_errors(client: Client, names: list[str], redis: Redis) -> None:
    PendingTasks(redis, drain_tasks=8, lease_s=9).pause(PROJECT + 1)
    page = read(client, "/status")
    for shown in ("Street scenes", "Leaves and bark", "worker-1", "learner-1", "cpu", names[1], "zero-shot",
                  "Paused.", "label 'wug': the model knows none of its words", "cannot be fetched (HTTP 404)",
                  "2 projects, 1 at work, 1 paused, 2 failed tasks, 1 worker.", "20 waiting", "2 at work"):
        assert shown in page.text, shown  # fmt: skip
    links = [tag["href"] for tag in page.all("a")]
    assert "status/project?id=7" in links
    assert f"{LABEL_STUDIO}/projects/7/data?task=7009" in links
    assert page.all("form") == []


def test_a_project_is_shown_with_reasons_versions_and_what_annotators_did(client: Client, names: list[str]) -> None:
    page = read(client, PAGE)
    for shown in ("At work, 1 failed task", "10 waiting", "1 at work", "8 done", "20 tasks in Label Studio",
                  "Correct its address, then retry.", "at worker worker-1", "Labels: label 'wug'",
                  "kept what is served: label 'tree' would be worse", "promoted at strength 0.75",
                  "Judged on images: 4 held-out, 2 cross-validated", "better by 0.080", "worse by 0.020",
                  "the same", "60 % of 10", "30 % of 10", "90 % of 10", "as the gate decided"):
        assert shown in page.text, shown  # fmt: skip
    (picture,) = page.all("svg")
    assert (picture["role"], picture["aria-label"]) == (
        "img", f"Mean IoU by version: {names[0]} 0.600, {names[1]} 0.660, {names[2]} 0.720",
    )  # fmt: skip
    buttons = {str(tag["value"]): str(tag["id"]) for tag in page.all("button")}
    others = {"serve:zeroshot", f"serve:{names[0]}", f"serve:{names[2]}"}
    assert set(buttons) == {"pause", "retry", "cancel", "retry:7009", *others}, "and none for what is served"
    assert "Promote" in page.text
    assert f"{LABEL_STUDIO}/projects/7/data" in [tag["href"] for tag in page.all("a")]


def test_without_titles_and_anything_learned_it_says_so(client: Client, pending: PendingTasks) -> None:
    pending.add(PROJECT, [TaskRef(VERSION, 1)])
    page = read(client, PAGE)
    for shown in ("project 7", "Tasks wait, and no worker is alive", "Nothing has been learned yet.",
                  "No worker has served this project yet.", "none is of this one", "No worker is alive"):
        assert shown in page.text, shown  # fmt: skip
    assert "project 7" in read(client, "/status").text
    assert read(client, "/status").text.count("No learner runs")


def test_an_empty_queue_says_how_to_begin(client: Client, redis: Redis) -> None:
    assert "Retrieve Predictions" in read(client, "/status").text


def test_the_public_address_of_label_studio_is_linked(
    settings: Settings, client_of: ClientOf, names: list[str]
) -> None:
    client = client_of(replace(settings, label_studio_public_url="https://tools.example.com/ls/, http://other"))
    links = [tag["href"] for tag in read(client, PAGE).all("a")]
    assert "https://tools.example.com/ls/projects/7/data?task=7009" in links


def test_each_button_does_what_it_says(client: Client, names: list[str], redis: Redis) -> None:
    pending = PendingTasks(redis, drain_tasks=8, lease_s=9)
    for action, message in (
        ("pause", "no more tasks are taken until it is resumed"), ("resume", "Resumed."),
        ("retry:7009", "1 failed tasks are queued again"), ("retry", "0 failed tasks are queued again"),
        ("cancel", "12 tasks are cancelled"),
    ):  # fmt: skip
        answer = press(client, action)
        assert answer.status_code == 303, answer.text
        where = answer.headers["location"]
        assert message in read(client, f"/status/{where}").text
        assert (PROJECT in pending.paused_projects()) is (action == "pause")
    counts = pending.counts(PROJECT)
    assert (counts.pending, counts.leased, counts.failed) == (0, 0, 0)
    assert len(predict_queue(redis)), "workers were called when it was resumed"


def test_a_version_is_promoted_and_rolled_back(
    client: Client, names: list[str], redis: Redis, tmp_path: Path
) -> None:
    folder = VersionFolder(str(tmp_path / "versions"), owner_of(PROJECT))
    for name in (names[2], "zeroshot", names[0]):
        answer = press(client, f"serve:{name}")
        assert answer.status_code == 303, answer.text
        assert folder.pointer().served == name
        assert ServedAdapters(redis).served(PROJECT, "builtin") == name
        page = read(client, f"/status/{answer.headers['location']}")
        assert ("zero-shot" if name == "zeroshot" else name) + " is served from now on" in page.text
        assert f"serve:{name}" not in [tag["value"] for tag in page.all("button")], "the page shows it at once"


def test_what_cannot_be_done_is_told_with_the_reason(client: Client, names: list[str], redis: Redis) -> None:
    for action, status, message in (
        ("serve:a9-123456", 409, "is none of"), (f"serve:{names[1]}", 409, "is what is served"),
        ("serve:../../etc", 400, "names no task or version"), ("serve", 400, "names no task or version"),
        ("retry:x", 400, "names no task or version"), ("pause:7", 400, "names no task or version"),
        ("delete", 400, "nothing that can be done"), ("", 400, "nothing that can be done"),
    ):  # fmt: skip
        answer = press(client, action)
        assert answer.status_code == status, action
        assert message in Document(answer.text).text
        assert 'role="alert"' in answer.text
    WorkerPresence(redis).remove("worker-1")
    WorkerPresence(redis).heartbeat("other", {"model": "another"})
    assert press(client, "serve:zeroshot").status_code == 409, "no running worker would serve it"
    token = client.get(PAGE).cookies[COOKIE].value
    answer = press(client, "pause", fields={"project": "99", "token": token}, headers={"Cookie": f"{COOKIE}={token}"})
    assert (answer.status_code, "has asked for no predictions yet" in answer.text) == (400, True)


ELSEWHERE = [
    pytest.param({"Sec-Fetch-Site": "cross-site"}, id="another site"),
    pytest.param({"Sec-Fetch-Site": "same-site", "Origin": "http://127.0.0.1:8080"}, id="another port"),
    pytest.param({"Origin": "http://evil.example", "Sec-Fetch-Site": ""}, id="another origin"),
    pytest.param({"Origin": "http://127.0.0.1.evil.example", "Sec-Fetch-Site": ""}, id="a similar origin"),
    pytest.param({"Origin": "null", "Sec-Fetch-Site": ""}, id="an opaque origin"),
    pytest.param({"Origin": "http://[", "Sec-Fetch-Site": ""}, id="no origin at all"),
    pytest.param({"Origin": "", "Sec-Fetch-Site": ""}, id="no browser"),
    pytest.param({"Origin": "", "Sec-Fetch-Site": "none"}, id="typed"),
    pytest.param({"Cookie": ""}, id="no cookie"),
    pytest.param({"Cookie": f"{COOKIE}={'a' * 43}"}, id="another cookie"),
    pytest.param({"Cookie": f"{COOKIE}="}, id="an empty cookie"),
]


@pytest.mark.parametrize("headers", ELSEWHERE)
def test_a_form_of_another_page_does_nothing(
    client: Client, names: list[str], redis: Redis, headers: dict[str, str]
) -> None:
    answer = press(client, "pause", headers=headers)
    assert answer.status_code == 403
    assert "That was not done." in Document(answer.text).text
    assert PendingTasks(redis, drain_tasks=8, lease_s=9).paused_projects() == frozenset()


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        pytest.param({"fields": {"token": ""}}, 403, id="no token"),
        pytest.param({"fields": {"token": "b" * 43}}, 403, id="another token"),
        pytest.param({"content_type": "application/json"}, 400, id="JSON"),
        pytest.param({"content_type": "text/plain"}, 400, id="plain text"),
        pytest.param({"content_type": "multipart/form-data; boundary=x"}, 400, id="parts"),
        pytest.param({"data": b"action=pause&project=7&x=" + b"a" * 5000}, 400, id="long"),
        pytest.param({"data": b"\xff" * 20}, 400, id="no text"),
        pytest.param({"data": b"&".join(b"a=1" for _ in range(30))}, 400, id="many fields"),
    ],
)
def test_what_is_no_form_of_this_page_does_nothing(
    client: Client, names: list[str], redis: Redis, changes: dict[str, Any], status: int
) -> None:
    assert press(client, "pause", **changes).status_code == status
    assert PendingTasks(redis, drain_tasks=8, lease_s=9).paused_projects() == frozenset()


def test_reading_changes_nothing(client: Client, names: list[str], redis: Redis) -> None:
    for path in (f"{PAGE}&action=pause", "/status/project?id=7&done=pause&what=", "/status?action=pause&project=7"):
        read(client, path)
    assert PendingTasks(redis, drain_tasks=8, lease_s=9).paused_projects() == frozenset()


@pytest.mark.parametrize("path", ["/status", PAGE, "/status/update", "/status.css", "/status.js"])
def test_browsers_are_told_to_trust_nothing_else(client: Client, names: list[str], path: str) -> None:
    answer = client.get(path)
    rules = dict(rule.strip().partition(" ")[::2] for rule in answer.headers["content-security-policy"].split(";"))
    assert (rules["default-src"], rules["frame-ancestors"], rules["base-uri"]) == ("'none'",) * 3
    assert (rules["script-src"], rules["style-src"], rules["form-action"]) == ("'self'",) * 3
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "same-origin", "with no-referrer, forms name no origin"


def test_no_script_or_style_is_in_a_page(client: Client, names: list[str]) -> None:
    for path in ("/status", PAGE):
        page = read(client, path)
        for tag, attributes in page.tags:
            assert not [name for name in attributes if name.startswith("on") or name == "style"], tag
            assert tag != "style"
            assert tag != "script" or attributes["src"]


def test_the_cookie_is_strict_and_only_for_forms(client: Client, names: list[str]) -> None:
    sent = client.get(PAGE).headers["set-cookie"]
    assert re.fullmatch(COOKIE + r"=[\w-]{43}; Path=/; HttpOnly; SameSite=Strict", sent)
    assert "set-cookie" not in client.get("/status").headers
    value = sent.split(";")[0]
    again = client.get(PAGE, headers={"Cookie": value})
    assert "set-cookie" not in again.headers
    assert value.partition("=")[2] in again.text


BAD = '"><script>alert(1)</script><img src=x onerror=alert(1)>\' \x00\u2028&amp;'


def test_hostile_texts_stay_texts(client: Client, names: list[str], redis: Redis, tmp_path: Path) -> None:
    pending, long = PendingTasks(redis, drain_tasks=8, lease_s=9), BAD + "x" * 100_000
    set_title(redis, PROJECT, long)
    pending.add(PROJECT, [TaskRef(VERSION, 1), TaskRef(BAD.replace("|", ""), 2)])
    for lease in pending.take(PROJECT, f"worker {BAD}", limit=30):
        pending.fail(PROJECT, f"worker {BAD}", lease.ref, long)
    WorkerPresence(redis).heartbeat(long, {"model": long, "device": long, "trouble": long, "click": long})
    ClickQueue(redis).note_unanswered(PROJECT, 3, long)
    redis.hset("zeromask:7:labels", "remarks", json.dumps([long] * 100))
    redis.set("zeromask:7:learning", json.dumps({"state": "idle", "detail": long, "at": long}))
    redis.lpush("zeromask:odd", json.dumps({"at": 0, "key": long, "what": long}))
    ServedAdapters(redis).write_judged(PROJECT, {long: {long: {"accepted": 1}}})
    evil = replace(owner_of(PROJECT), label_studio="javascript:alert(1)//")
    ServedAdapters(redis).write(PROJECT, ServedCopy("zeroshot", 0, str(tmp_path / BAD[:8]), evil))
    for path in ("/status", PAGE, f"{PAGE}&done={BAD[:20]}&what=<b>"):
        page = read(client, path)
        assert [attributes.get("src") for attributes in page.all("script")] in (["status.js"], ["../status.js"])
        assert page.all("img") == []
        assert not [tag for tag in page.all("a") if not re.match(r"(\.\./)?status|#main", str(tag["href"]))]
        assert all(control not in page.text for control in "\x00\u2028")
        assert len(page.text) < 60_000
        assert "alert(1)" in page.text


def test_versions_of_the_same_labels_are_counted_together(client: Client, names: list[str], redis: Redis) -> None:
    """Versions of predictions also name the labels there were, and are spelled as their release did."""
    first = VERSION.replace("zeroshot", names[0])
    counts = {"accepted": 1, "changed": 1, "deleted": 0, "added": 0}
    spelled = f"builtin v001 +3 corrected (2026-11-21 {first}) v001"
    other = first.replace("0123abcd", "deadbeef")
    ServedAdapters(redis).write_judged(PROJECT, {version: {"cat": counts} for version in (first, spelled, other)})
    assert "50 % of 6" in read(client, PAGE).text


def test_versions_of_two_models_are_counted_apart(client: Client, names: list[str], redis: Redis) -> None:
    counts = {"accepted": 1, "changed": 1, "deleted": 0, "added": 0}
    other = VERSION.replace("builtin", "ViT-B-16")
    ServedAdapters(redis).write_judged(PROJECT, {version: {"cat": counts} for version in (VERSION, other)})
    page = read(client, PAGE)
    assert page.text.count("50 % of 2") == 4, "accepted and edited, of each"
    assert "zero-shot, builtin" in page.text
    assert "zero-shot, ViT-B-16" in page.text


def test_damaged_figures_of_a_version_are_left_out(client: Client, names: list[str], tmp_path: Path) -> None:
    (manifest,) = tmp_path.rglob(f"{names[1]}/manifest.json")
    row = json.loads(manifest.read_text())
    row["verdict"]["figures"] = {"mean_iou": {"candidate": 7, "served": "x"}, "judged_on": [1], "source": [BAD],
                                 "labels": {"cat": [1], BAD: {"served": 0.5, "candidate": "1e999"}}}  # fmt: skip
    manifest.write_text(json.dumps(row))
    (broken,) = tmp_path.rglob(f"{names[0]}/manifest.json")
    broken.write_text("{")
    page = read(client, PAGE)
    assert "is damaged" in page.text
    (picture,) = page.all("svg")
    assert picture["aria-label"] == f"Mean IoU by version: {names[2]} 0.720"


def test_versions_that_this_process_does_not_see_are_told(client: Client, names: list[str], redis: Redis) -> None:
    ServedAdapters(redis).write(PROJECT, ServedCopy(names[1], 5, "/somewhere/else", owner_of(PROJECT)))
    page = read(client, PAGE)
    assert "is not where the versions of project 7 are, as seen from here" in page.text
    assert f"served by {names[1]}" in page.text
    assert "on corrections: kept what is served: label 'tree' would be worse" in page.text, "from Redis"
    assert not [tag for tag in page.all("button") if str(tag["value"]).startswith("serve")]


def test_a_place_that_does_not_answer_delays_no_page(
    client: Client, names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any) -> None:
        raise VersionsUnavailable("folder s3://versions", "does not answer", "Wait.")

    monkeypatch.setattr(VersionFolder, "pointer", away)
    assert "folder s3://versions: does not answer. Wait." in read(client, PAGE).text


def test_a_place_that_hangs_delays_no_other_page(
    client: Client, names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An object store may take minutes until it fails."""
    going_on, asked = threading.Event(), list[float]()

    def hangs(copy: ServedCopy) -> Any:
        asked.append(time.monotonic())
        going_on.wait(60)
        return read_versions(copy)

    monkeypatch.setattr("backend.status.reading.read_versions", hangs)
    monkeypatch.setattr("backend.status.reading._VERSIONS_WAIT_S", 0.1)
    assert "The versions are being read" in read(client, PAGE).text
    assert "Street scenes" in read(client, "/status").text
    time.sleep(1.1)  # the page is read anew, the versions are not asked for twice
    assert "The versions are being read" in read(client, PAGE).text
    going_on.set()
    wait_until(lambda: names[0] in read(client, PAGE).text)
    assert len(asked) == 1
    update = client.get(f"/status/update?id={PROJECT}").json
    assert "The versions are being read" not in json.dumps(update)
    assert f"v-{names[0]}" in update["boxes"]["versions"]


def test_versions_stay_on_the_page_while_they_are_read_again(
    client: Client, names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    going_on = threading.Event()
    assert names[0] in read(client, PAGE).text
    monkeypatch.setattr(reading, "_VERSIONS_FRESH_S", 0.0)
    monkeypatch.setattr(reading, "_VERSIONS_WAIT_S", 0.05)
    monkeypatch.setattr(VersionFolder, "pointer", lambda _: going_on.wait(30) and Pointer())
    for _ in range(3):
        assert f"serve:{names[0]}" in [tag["value"] for tag in read(client, PAGE).all("button")]
    going_on.set()


def test_a_redis_that_is_away_is_told_on_the_page(
    settings: Settings, dead_redis_url: str, client_of: ClientOf
) -> None:
    client = client_of(replace(settings, redis_url=dead_redis_url))
    for path in ("/status", PAGE):
        answer = client.get(path)
        assert answer.status_code == 503
        assert "Redis: does not answer. Try again when it does." in Document(answer.text).text
        assert "nobody.sock" not in answer.text
    assert client.get("/status/update").status_code == 503


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/status/project", 400), ("/status/project?id=", 400), ("/status/project?id=x", 400),
        ("/status/project?id=99", 404), ("/status/project?id=9999999999999999999999", 400), ("/status?page=0", 400),
        ("/status?page=x", 400), ("/status/update?id=99", 404), ("/status/update?page=-1", 400),
    ],
)  # fmt: skip
def test_what_is_not_there_is_refused(client: Client, names: list[str], path: str, status: int) -> None:
    answer = client.get(path)
    assert answer.status_code == status
    if "update" not in path:
        assert "Nothing can be shown." in Document(answer.text).text, "a person reads it"


def had(parts: Document) -> str:
    return ",".join(f"{tag['id']}.{tag['data-v']}" for _, tag in parts.tags if "data-v" in tag)


@pytest.mark.parametrize("page", ["/status", PAGE])
def test_an_update_has_what_changed_and_nothing_else(
    client: Client, names: list[str], redis: Redis, page: str
) -> None:
    opened = read(client, page)
    (body,) = opened.all("body")
    path = str(body["data-update"]) if page == "/status" else f"status/{body['data-update']}"
    update = client.get(f"/{path}&have={had(opened)}").json
    assert (update["parts"], update["more"]) == ({}, False)
    shown = {key for keys in update["boxes"].values() for key in keys}
    assert shown == {str(tag["id"]) for _, tag in opened.tags if "data-v" in tag}
    PendingTasks(redis, drain_tasks=8, lease_s=9).add(PROJECT, [TaskRef(VERSION, 9999)])
    keep_alive(redis)
    assert not client.get(f"/{path}&have={had(opened)}").json["parts"], "it is read once a second at most"
    redis.set("zeromask:7:warning", "webhooks are not let in")
    assert press(client, "resume").status_code == 303  # which makes it be read again
    changed = client.get(f"/{path}&have={had(opened)}").json["parts"]
    wanted = {"p7", "n-pending"} if page == "/status" else {"n-pending", "note-1"}
    assert wanted <= set(changed) <= wanted | {"n-pace", "p8"}, "and the pace, as time goes by"
    for html in changed.values():
        Document(html)


def test_an_update_is_small_however_much_changed(client: Client, redis: Redis) -> None:
    fill(redis, projects=60, tasks=600)
    for project in range(PROJECT, PROJECT + 60):
        set_title(redis, project, "<" * 200)
        redis.set(f"zeromask:{project}:warning", "&" * 400)
    known, updates = dict[str, str](), 0
    more = True
    while more:
        answer = client.get("/status/update?have=" + ",".join(f"{key}.{digest}" for key, digest in known.items()))
        assert len(answer.content) <= MOST_UPDATE < 20_000
        update, updates = answer.json, updates + 1
        found = {key: re.search(r'data-v="(\w+)"', html) for key, html in update["parts"].items()}
        known |= {key: match[1] for key, match in found.items() if match}
        more = update["more"]
    assert {f"p{project}" for project in range(7, 57)} <= set(known)
    assert 1 < updates < 12
    page = read(client, "/status")
    assert "Projects 1 to 50 of 60, " in page.text
    assert "Tasks of these projects" in page.text
    assert "Projects 51 to 60 of 60, " in read(client, "/status?page=2").text
    assert "status?page=2" in [tag.get("href") for tag in page.all("a")]
    assert "p66" in read(client, "/status?page=2").ids
    assert "p66" in read(client, "/status?page=99").ids, "the last one"


def test_a_part_that_fits_in_no_update_holds_up_no_other() -> None:
    page = Page("title", (Box("box", (Part("large", "p", "x" * MOST_UPDATE), Part("small", "p", "字"))),))
    update = json.loads(page.changes(""))
    assert (list(update["parts"]), update["more"]) == (["small"], False), "and it is not asked for again and again"
    assert b"x" * MOST_UPDATE in page.html


def test_many_projects_are_read_in_few_requests(client: Client, redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    from redis.connection import AbstractConnection

    sent = list[int]()
    send: Any = AbstractConnection.send_packed_command

    def counted(self: AbstractConnection, *args: Any, **kwargs: Any) -> Any:
        sent.append(1)
        return send(self, *args, **kwargs)

    needed = []
    for projects in (2, 50):
        redis.flushall()
        fill(redis, projects=projects, tasks=projects * 4)
        with monkeypatch.context() as patch:
            patch.setattr(AbstractConnection, "send_packed_command", counted)
            read(client, "/status")  # connects
            sent.clear()
            press(client, "pause")
            sent.clear()
            read(client, "/status")
        needed.append(len(sent))
    assert needed[0] == needed[1] <= 20, needed


def test_a_button_stays_that_of_its_task(client: Client, names: list[str], redis: Redis) -> None:
    """Somebody is about to press it, and a row above goes away."""
    redis.hset("zeromask:7:failed", mapping={f"{VERSION}|{task}": "no picture" for task in (7010, 7011)})
    buttons = {tag["id"]: tag["value"] for tag in read(client, PAGE).all("button")}
    press(client, "retry:7009")
    left = {tag["id"]: tag["value"] for tag in read(client, PAGE).all("button")}
    assert "retry:7011" in left.values()
    assert left.items() < buttons.items()


def test_a_key_of_a_wrong_type_costs_nothing_but_itself(client: Client, names: list[str], redis: Redis) -> None:
    redis.delete("zeromask:7:pace", "zeromask:8:failed")
    redis.set("zeromask:7:pace", "x")
    redis.set("zeromask:8:failed", "x")
    page = read(client, "/status")
    assert "Street scenes" in page.text
    assert "Leaves and bark" in page.text
    assert "a string where a hash should be" in page.text


def test_the_stored_figures_keep_the_promise_and_are_those_of_the_documentation() -> None:
    found = json.loads(status_load.STORED.read_text())
    assert (found["projects"], found["tasks"]) == (50, 100_000)
    assert all(found[f"{name}_first_byte_ms"]["p95"] < 200 for name in ("projects", "project", "update"))
    assert found["update_kb"]["most"] < 20
    text = status_load.DOCUMENT.read_text()
    assert status_load.filled(text) == text, f"run {status_load.COMMAND}"
