"""Connecting without Label Studio: the version that is shown, the address that is given. With it, see
`tests/test_doctor_label_studio.py`.
"""

from __future__ import annotations

from typing import Any, cast

import pytest
from redis import Redis

from plugin_config.cli.connect import _shown, served_version
from plugin_config.errors import LabelStudioError, LabelStudioFailing
from plugin_config.label_studio.client import LabelStudio, Project
from plugin_config.label_studio.connecting import connect_model, disconnect_model
from plugin_config.model_version import Learned, ModelVersion
from plugin_config.queue.ledger import ProjectLedger
from plugin_config.settings import Settings
from plugin_config.versions.manifests import Owner
from plugin_config.versions.served import ServedAdapters, ServedCopy
from plugin_config.vocabulary import parse_vocabulary

BUILTIN = Settings(model="builtin")
CATS = parse_vocabulary(
    '<View><Image name="i" value="$image"/><BrushLabels name="b" toName="i"><Label value="cat"/></BrushLabels></View>'
)
HERE = "http://127.0.0.1:9090"


def test_the_version_is_spelled_as_workers_spell_it(redis: Redis) -> None:
    """Label Studio shows annotators predictions of exactly this text."""
    zero_shot = ModelVersion.of(BUILTIN, CATS)
    assert served_version(redis, BUILTIN, 7, CATS) == str(zero_shot)
    ProjectLedger(redis).start_rollout(7, zero_shot.identity)
    assert served_version(redis, BUILTIN, 7, CATS) == zero_shot.identity, "as an earlier release wrote it"
    owner = Owner("http://ls", 7, "2026", "builtin")
    ServedAdapters(redis).write(7, ServedCopy("a3-123456", 3, "/v", owner, learned="+9 corrected", made="2026-11-29"))
    learned = ModelVersion.of(BUILTIN, CATS, adapter="a3-123456", learned=Learned("+9 corrected", "2026-11-29"))
    assert served_version(redis, BUILTIN, 7, CATS) == str(learned)


class OneProject:
    """A Label Studio with one project, and what was asked of it."""

    def __init__(self, models: list[dict[str, Any]], hooks: list[dict[str, Any]]) -> None:
        self.models, self.hooks, self.changes = models, hooks, list[tuple[str, str, Any]]()

    def request(self, method: str, path: str, **options: Any) -> Any:
        if method == "GET":
            return self.models if path == "/api/ml/" else self.hooks
        body = options.get("json")
        if body and "not stored" in body.values():  # a probe
            raise LabelStudioError("POST", "{'is_active': ['Must be a valid boolean.']}", "", status=400)
        self.changes.append((method, path, body))
        return None

    def connect(self, url: str = "", settings: Settings = BUILTIN) -> str:
        return "\n".join(connect_model(cast("LabelStudio", self), 7, settings, url=url))


def model(url: str = HERE, **changed: Any) -> dict[str, Any]:
    return {"id": 1, "url": url, "title": "Ours ▸ 2026-11-30 01:02: kept.", "state": "CO", "is_interactive": True,
            **changed}  # fmt: skip


def hook(number: int, *, active: bool) -> dict[str, Any]:
    return {"id": number, "url": f"{HERE}/webhook", "is_active": active, "headers": {}, "actions": []}


def test_a_correction_leaves_the_title_to_workers() -> None:
    there = OneProject([model(state="DI")], [hook(1, active=True)])
    assert "is corrected" in there.connect()
    ((method, _, body),) = there.changes
    assert (method, "title" in body) == ("PATCH", False)


def test_of_two_webhooks_the_one_that_is_switched_on_counts() -> None:
    there = OneProject([model()], [hook(1, active=False), hook(2, active=True)])
    assert "Its webhook was there." in there.connect()
    assert there.changes == []


def test_a_slash_at_the_end_makes_no_second_connection() -> None:
    there = OneProject([model(f"{HERE}/")], [hook(1, active=True)])
    assert f"The backend was connected at {HERE}" in there.connect(f"{HERE}/")


def test_only_this_backend_is_disconnected_with_its_webhook() -> None:
    other = model("http://others:9090", id=2, title="Other")
    hooks = [hook(1, active=True), {**hook(2, active=True), "url": "http://others:9090/webhook"}]
    there = OneProject([model(), other], hooks)
    told = disconnect_model(cast("LabelStudio", there), 7, BUILTIN)
    assert there.changes == [("DELETE", "/api/ml/1", None), ("DELETE", "/api/webhooks/1/", None)]
    still = "Still connected: 'http://others:9090'. If that is this backend, give it with --url."
    assert told == [f"'{HERE}' is disconnected.", still]


def test_where_nothing_is_connected_that_is_told() -> None:
    there = OneProject([], [])
    assert disconnect_model(cast("LabelStudio", there), 7, BUILTIN) == ["No model of this backend is connected."]
    assert there.changes == []


@pytest.mark.parametrize("url", ["", HERE])
def test_a_webhook_that_is_left_where_the_model_was_deleted_is_deleted_too(url: str) -> None:
    """Else the next annotation brings the project back."""
    hooks = [hook(1, active=True), {**hook(2, active=True), "url": "http://others:9090/webhook"},
             {**hook(3, active=True), "url": f"{HERE}/other"}]  # fmt: skip
    there = OneProject([], hooks)
    told = disconnect_model(cast("LabelStudio", there), 7, BUILTIN, url=url)
    assert told == ["No model of this backend is connected.", "Its webhook, which was left, is deleted."]
    assert there.changes == [("DELETE", "/api/webhooks/1/", None)]


@pytest.mark.parametrize("url", ["localhost:9090", "ftp://host", "http://", "http://a b"])
def test_what_is_no_address_is_refused_before_label_studio_is_asked(url: str) -> None:
    there = OneProject([], [])
    with pytest.raises(LabelStudioError, match=r"--url: is not an address.* Write http://host:9090"):
        there.connect(url)
    assert there.changes == []


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (LabelStudioError("POST", "{'url': ['Enter a valid URL.']}", "", status=400), "whose host has a dot"),
        (LabelStudioError("POST", "No permission", "", status=403), "a user who may change this project"),
        (LabelStudioFailing("POST", "answered HTTP 502", "", status=502), "is in trouble: try again"),
    ],
)
def test_an_address_that_label_studio_refuses_is_told_with_what_helps(error: LabelStudioError, remedy: str) -> None:
    there = OneProject([], [])

    def request(method: str, path: str, **_: Any) -> Any:
        if method == "POST":
            raise error
        return []

    there.request = request  # type: ignore[method-assign]
    with pytest.raises(LabelStudioError, match=remedy):
        there.connect("http://backend:9090", Settings(model="builtin", allowed_hosts="backend"))


@pytest.mark.parametrize(("allowed", "told"), [("", True), ("zeromask.example.com", False)])
def test_an_address_that_workers_would_not_know_is_told(allowed: str, *, told: bool) -> None:
    settings = Settings(model="builtin", allowed_hosts=allowed)
    said = OneProject([], []).connect("http://zeromask.example.com", settings)
    assert ("ZEROMASK_ALLOWED_HOSTS" in said) == told


class ManyTasks(OneProject):
    """A project whose versions are told in one answer; its tasks must not be read for them."""

    def request(self, method: str, path: str, **options: Any) -> Any:
        if path == "/api/projects/7/model-versions/":
            return {"static": [{"model_version": "stored", "count": 100_000}, {"model_version": None, "count": 0}]}
        return super().request(method, path, **options)

    def all_tasks(self, project: int) -> None:
        raise AssertionError(f"all tasks of project {project} are read")

    def show_version(self, project: int, version: str) -> None:
        self.changes.append(("show", str(project), version))


@pytest.mark.parametrize(("version", "changes"), [("stored", [("show", "7", "stored")]), ("not yet", [])])
def test_a_stored_version_is_shown_without_reading_all_tasks(version: str, changes: list[Any]) -> None:
    there = ManyTasks([], [])
    told = _shown(cast("LabelStudio", there), Project(7, "cats", "", ""), version)
    assert (told == f"Annotators are shown {version}.") == bool(changes)
    assert there.changes == changes
