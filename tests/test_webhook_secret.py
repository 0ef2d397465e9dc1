"""The webhook secret: into the webhooks that lead to this backend, into no other; obstacles are reported."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, cast

import pytest
from redis import Redis

from plugin_config.errors import LabelStudioError, LabelStudioFailing, LabelStudioUnreachable
from plugin_config.label_studio.webhooks import SECRET_HEADER, leads_here
from plugin_config.overview.control import QueueControl
from plugin_config.settings import Settings
from tests.house import CONFIG, House, picture, tasks, upload, wait_until
from tests.http_server import Answer, Asked, Server, as_json, serving
from tests.stand_ins import PROJECT, StandInContext, StandInLabelStudio, context_fixture
from worker.service.context import WorkerContext
from worker.service.webhook_secret import install_webhook_secret

__all__ = ["context_fixture"]  # pytest finds the fixture by its being here

SECRET = "a secret of webhooks"
USER, PASSWORD = "label-studio", "a password of models"


@pytest.mark.parametrize(
    ("url", "here"),
    [
        ("http://localhost:9090", True),
        ("http://LOCALHOST:9090/", True),
        ("http://127.0.0.1:9090", True),
        ("http://127.9.9.9:9090", True),
        ("http://[::1]:9090", True),
        ("http://10.0.0.5:9090", True),  # the host listened on
        ("https://masks.example.com", True),
        ("http://zeromask:8000/below", True),
        ("http://localhost:9091", False),  # another program of this machine
        ("http://localhost", False),
        ("http://10.0.0.6:9090", False),
        ("http://evil.example:9090", False),
        ("http://masks.example.com.evil.example", False),
        ("http://evil.example/masks.example.com", False),
        ("http://localhost:9090@evil.example", False),
        ("http://localhost:9090\\@evil.example", False),
        ("http://evil.example\\@localhost:9090", False),
        ("http://localhost%2eevil.example:9090", False),
        ("http://evil.example#@localhost:9090", False),
        ("http://evil.example?@localhost:9090", False),
        ("http://localhost:9090\n", False),
        ("ftp://localhost:9090", False),
        ("//localhost:9090", False),
        ("", False),
    ],
)
def test_which_addresses_are_this_backend(url: str, here: bool) -> None:
    settings = Settings(host="10.0.0.5", port=9090, allowed_hosts="zeromask, Masks.example.com.")
    assert leads_here(url, settings) is here


class StandInHooks(StandInLabelStudio):
    """Keeps connected models and webhooks; `refuses_changes` as for a token without that right."""

    def __init__(self, *models: str) -> None:
        super().__init__(2)
        self.models, self.hooks = list(models), [hook(5, f"{url.rstrip('/')}/webhook") for url in models]
        self.error: LabelStudioError | None = None
        self.changed: list[tuple[str, Any]] = []

    def request(self, method: str, path: str, **options: Any) -> Any:
        if self.error is not None and method in (str(self.error.subject).split()[0], "ALL"):
            raise self.error
        if method == "PATCH":
            self.changed.append((path, options["json"]))
            row = next(row for row in self.hooks if path == f"/api/webhooks/{row['id']}/")
            row.update(options["json"])
            return row
        assert options["params"] == {"project": PROJECT}
        return [{"url": url} for url in self.models] if path == "/api/ml/" else self.hooks


def hook(number: int, url: str, **changes: Any) -> dict[str, Any]:
    return {"id": number, "url": url, "is_active": True, "headers": {}, "actions": [], **changes}


@pytest.fixture
def signed_in(context: StandInContext) -> StandInContext:
    context.settings = replace(context.settings, webhook_secret=SECRET)
    return context


def look(context: StandInContext, *models: str) -> StandInHooks:
    """A context's look at a project with these models connected."""
    context.label_studio = found = StandInHooks(*models)
    context.reconcile()
    return found


def test_a_look_installs_it_once(signed_in: StandInContext) -> None:
    found = look(signed_in, "http://localhost:9090/")
    assert found.changed == [("/api/webhooks/5/", {"headers": {SECRET_HEADER: SECRET}, "actions": []})]
    signed_in.reconcile()
    assert len(found.changed) == 1
    signed_in.settings = replace(signed_in.settings, webhook_secret="another secret of webhooks")
    signed_in.reconcile()
    assert found.hooks[0]["headers"] == {SECRET_HEADER: "another secret of webhooks"}
    assert signed_in.ledger.webhook_warning(PROJECT) == ""


def test_nothing_is_asked_where_nobody_signs_in(context: StandInContext) -> None:
    context.ledger.set_webhook_warning(PROJECT, "of a time when somebody did")
    context.reconcile()  # this stand-in knows no webhooks
    assert context.ledger.webhook_warning(PROJECT) == ""


def test_only_the_webhook_of_our_own_model_gets_it_and_keeps_what_it_had(signed_in: StandInContext) -> None:
    ours, evil = "http://localhost:9090", "http://evil.example:9090"
    signed_in.label_studio = found = StandInHooks(ours, evil)
    found.hooks = [
        hook(1, f"{ours}/webhook", headers={"X-Other": "kept", "x-zeromask-secret": "old"}, actions=["TASKS_CREATED"]),
        hook(2, f"{evil}/webhook"),
        hook(3, f"{ours}/elsewhere"),
        hook(4, "http://localhost:9090@evil.example/webhook"),
        hook(5, "http://127.0.0.1:9090/webhook"),  # of no model that is connected
        hook(6, f"{ours}/webhook", is_active=False),
    ]
    signed_in.reconcile()
    told = {"headers": {"X-Other": "kept", SECRET_HEADER: SECRET}, "actions": ["TASKS_CREATED"]}
    assert found.changed == [("/api/webhooks/1/", told)]


REFUSED = LabelStudioError("PATCH /api/webhooks/5/", "was refused (HTTP 403)", "Another token.", status=403)


@pytest.mark.parametrize(
    ("models", "hooks", "error", "said"),
    [
        pytest.param(["http://localhost:9090"], [], None, "SSRF_PROTECTION_ENABLED=false", id="no webhook"),
        pytest.param(["http://localhost:9090"], [hook(5, "http://localhost:9090/webhook", is_active=False)], None,
                     "has no webhook", id="switched off"),
        pytest.param(["http://u:hush@proxy.example:80/x"], None, None, "proxy.example", id="not known to be ours"),
        pytest.param(["http://\x1bc\x07/x"], None, None, "connected under ?,", id="no host at all"),
        pytest.param(["http://[broken"], None, None, "ZEROMASK_ALLOWED_HOSTS", id="no address"),
        pytest.param(["http://localhost:9090"], None, REFUSED, "HTTP 403", id="a token without the right"),
        pytest.param(["http://localhost:9090"], [{"id": 5}], None, "not as expected", id="another Label Studio"),
    ],
)  # fmt: skip
def test_what_stands_in_the_way_is_told_once_and_costs_nothing_else(
    signed_in: StandInContext, redis: Redis, caplog: pytest.LogCaptureFixture, models: list[str],
    hooks: list[dict[str, Any]] | None, error: LabelStudioError | None, said: str,
) -> None:  # fmt: skip
    signed_in.label_studio = found = StandInHooks(*models)
    found.hooks, found.error = found.hooks if hooks is None else hooks, error
    signed_in.ask(1)
    signed_in.hints.hint_tasks(PROJECT, [777])
    with caplog.at_level(logging.WARNING):
        signed_in.reconcile()
        signed_in.reconcile()
    assert signed_in.hints.hinted_tasks(PROJECT, most=9) == [], "the look went on"
    assert caplog.text.count(said) == 1
    (shown,) = QueueControl(redis, Settings()).state().projects
    assert said in shown.remarks[0]
    assert SECRET not in caplog.text + shown.remarks[0]
    assert "hush" not in caplog.text + shown.remarks[0]
    look(signed_in, "http://localhost:9090")
    assert signed_in.ledger.webhook_warning(PROJECT) == "", "mended"


@pytest.mark.parametrize(
    "error",
    [
        LabelStudioUnreachable("GET /api/ml/", "does not answer", "Start it."),
        LabelStudioFailing("GET /api/ml/", "answered HTTP 502", "Wait.", status=502),
    ],
    ids=["no answer", "502"],
)
def test_a_label_studio_that_is_away_is_asked_the_next_time(
    signed_in: StandInContext, error: LabelStudioError
) -> None:
    signed_in.label_studio = found = StandInHooks("http://localhost:9090")
    found.error = error
    signed_in.reconcile()
    assert found.changed == []
    assert signed_in.ledger.webhook_warning(PROJECT) == ""
    found.error = None
    signed_in.reconcile()
    assert len(found.changed) == 1


@pytest.fixture
def recording() -> Iterator[Server]:
    """In the place of a backend: lets everything in and keeps what it was sent."""

    def answer(asked: Asked) -> Answer:
        return as_json({"status": "UP", "model_version": "recording", "results": []})

    with serving(answer, host="localhost") as found:
        yield found


def annotate(house: House, project: int) -> None:
    house.label_studio.request("POST", f"/api/tasks/{tasks(house, project)[0].id}/annotations/", json={"result": []})


def events(server: Server) -> list[tuple[str, str | None]]:
    """The webhooks about annotations: their path and the secret they carry."""
    sent = [asked for asked in server.asked if asked.path.endswith("/webhook")]
    told = [asked for asked in sent if json.loads(asked.body)["action"] == "ANNOTATION_CREATED"]
    return [(asked.path, asked.headers.get(SECRET_HEADER)) for asked in told]


def test_label_studio_sends_it_from_then_on(house: House, recording: Server, signed_in: StandInContext) -> None:
    """A real Label Studio, which signs in with what it asks the model and never with its webhooks."""
    label_studio = house.label_studio
    body = {"title": "house secret", "label_config": CONFIG.format(more="")}
    project = int(label_studio.request("POST", "/api/projects/", json=body)["id"])
    upload(house, project, [picture(top=20)])
    model = {"project": project, "url": recording.url, "title": "signed in", "auth_method": "BASIC_AUTH",
             "basic_auth_user": USER, "basic_auth_pass": PASSWORD}  # fmt: skip
    label_studio.request("POST", "/api/ml/", json=model)
    assert all(asked.headers.get("Authorization", "").startswith("Basic ") for asked in recording.asked)
    assert {asked.path for asked in recording.asked} >= {"/health", "/setup"}
    (mine,) = label_studio.request("GET", "/api/webhooks/", params={"project": project})
    limited = {"send_for_all_actions": False, "actions": ["ANNOTATION_CREATED"], "headers": {"X-Other": "kept"}}
    label_studio.request("PATCH", f"/api/webhooks/{mine['id']}/", json=limited)
    strange = {"project": project, "url": f"{recording.url}/strange/webhook"}
    label_studio.request("POST", "/api/webhooks/", json=strange)
    annotate(house, project)
    wait_until(lambda: len(events(recording)) >= 2, told="both webhooks")
    assert sorted(events(recording)) == [("/strange/webhook", None), ("/webhook", None)]

    signed_in.label_studio = cast("StandInLabelStudio", label_studio)
    signed_in.settings = replace(signed_in.settings, port=int(recording.url.rpartition(":")[2]))
    for _ in range(2):
        install_webhook_secret(cast("WorkerContext", signed_in), project)
    assert signed_in.ledger.webhook_warning(project) == ""
    rows = label_studio.request("GET", "/api/webhooks/", params={"project": project})
    told = {row["url"].removeprefix(recording.url): (row["headers"], row["actions"]) for row in rows}
    assert told == {
        "/webhook": ({"X-Other": "kept", SECRET_HEADER: SECRET}, ["ANNOTATION_CREATED"]), "/strange/webhook": ({}, []),
    }  # fmt: skip
    recording.asked.clear()
    annotate(house, project)
    wait_until(lambda: len(events(recording)) >= 2, told="both webhooks once more")
    assert sorted(events(recording), key=str) == [("/strange/webhook", None), ("/webhook", SECRET)]
