"""What the backend refuses, and in which words: garbage, wrong fields, large bodies, other addresses."""

from __future__ import annotations

import io
import json
import logging
from contextlib import closing
from typing import Any

import pytest
from falcon.testing import create_environ

from backend.app import create_app
from backend.payloads import parse_predict
from backend.queue_client import QueueClient
from backend.responses import JSON
from plugin_config.errors import JobError
from plugin_config.queue.pending import PendingTasks
from plugin_config.settings import Settings
from tests.backend_client import (
    TOKEN,
    VERSION,
    Client,
    answer_of,
    client_fixture,
    client_of_fixture,
    detail,
    patient_fixture,
    predict_body,
    setup_body,
)

__all__ = ["client_fixture", "client_of_fixture", "patient_fixture"]  # pytest finds fixtures by their being here


BROKEN = [
    pytest.param(b"", "not a JSON object", id="empty"),
    pytest.param(b"{", "not a JSON object", id="cut off"),
    pytest.param(b"\xff\xfe\x00", "not a JSON object", id="not text"),
    pytest.param(b"[" * 100_000, "JSON object", id="endlessly nested"),
    pytest.param(b'{"project":' * 50_000, "JSON object", id="endlessly nested objects"),
    pytest.param(b"[]", "JSON object", id="list"),
    pytest.param(b"null", "JSON object", id="null"),
    pytest.param(b'"text"', "JSON object", id="text"),
    pytest.param(b'{"a": 1} {}', "JSON object", id="two documents"),
    pytest.param(b'{"project": ' + b"9" * 5000 + b"}", "", id="endless number"),
]


@pytest.mark.parametrize("route", ["/setup", "/predict", "/webhook", "/train", "/versions"])
@pytest.mark.parametrize(("body", "says"), BROKEN)
def test_garbage_is_refused_with_a_sentence(client: Client, route: str, body: bytes, says: str) -> None:
    response = client.post(route, data=body, content_type="application/json")
    assert response.status_code == 400
    assert says in detail(response)


@pytest.mark.parametrize(
    ("body", "names"),
    [
        pytest.param({}, "project", id="nothing"),
        pytest.param({"project": "7.1"}, "schema", id="no schema"),
        pytest.param(setup_body(project=None), "project", id="no project"),
        pytest.param(setup_body(project="seven"), "project", id="project in words"),
        pytest.param(setup_body(project="0.17"), "project", id="project zero"),
        pytest.param(setup_body(project="7\n"), "project", id="line end"),
        pytest.param(setup_body(project=True), "project", id="project is a bool"),
        pytest.param(setup_body(project=["7"]), "project", id="project is a list"),
        pytest.param(setup_body(project="9" * 40), "project", id="project without end"),
        pytest.param(setup_body(schema=None), "schema", id="schema is null"),
        pytest.param(setup_body(schema={"a": 1}), "schema", id="schema is an object"),
        pytest.param(setup_body(schema=""), "labeling config", id="schema is empty"),
        pytest.param(setup_body(schema="<View"), "labeling config", id="schema is not XML"),
        pytest.param(setup_body(schema="\ud800"), "labeling config", id="schema is half a sign"),
    ],
)
def test_setup_names_the_field_that_is_wrong(client: Client, body: dict[str, Any], names: str) -> None:
    response = client.post("/setup", json=body)
    assert response.status_code == 400
    assert names in detail(response)


@pytest.mark.parametrize(
    ("body", "names"),
    [
        pytest.param({}, "tasks", id="nothing"),
        pytest.param(predict_body(1, project=None), "project", id="no project"),
        pytest.param(predict_body(1, label_config=None), "label_config", id="no config"),
        pytest.param(predict_body(1, label_config="<View/>"), "labeling config", id="config without labels"),
        pytest.param(predict_body(tasks=None), "tasks", id="tasks is null"),
        pytest.param(predict_body(tasks={"id": 1}), "tasks", id="tasks is an object"),
        pytest.param(predict_body(tasks=[1]), "tasks", id="task is a number"),
        pytest.param(predict_body(tasks=[{"data": {}}]), "tasks", id="task without id"),
        pytest.param(predict_body(tasks=[{"id": "1"}]), "tasks", id="id is text"),
        pytest.param(predict_body(tasks=[{"id": True}]), "tasks", id="id is a bool"),
        pytest.param(predict_body(tasks=[{"id": 0}]), "tasks", id="id is zero"),
        pytest.param(predict_body(tasks=[{"id": 2**63}]), "tasks", id="id is no key"),
        pytest.param(predict_body(tasks=[{"id": 1}, None]), "tasks", id="one of many"),
        pytest.param(predict_body(1, params="x"), "params", id="params is text"),
    ],
)
def test_predict_names_the_field_that_is_wrong(
    client: Client, pending: PendingTasks, body: dict[str, Any], names: str
) -> None:
    response = client.post("/predict", json=body)
    assert response.status_code == 400
    assert names in detail(response)
    assert pending.counts(7).pending == 0


@pytest.mark.parametrize(
    ("body", "names"),
    [
        pytest.param({"project": {"id": 7}}, "action", id="no action"),
        pytest.param({"action": 5, "project": {"id": 7}}, "action", id="action is a number"),
        pytest.param({"action": "", "project": {"id": 7}}, "action", id="action is empty"),
        pytest.param({"action": "A\nERROR forged", "project": 7}, "action", id="action forges a log line"),
        pytest.param({"action": "A" * 65, "project": 7}, "action", id="action without end"),
        pytest.param({"action": "A"}, "project", id="no project"),
        pytest.param({"action": "A", "project": {}}, "project.id", id="project without id"),
        pytest.param({"action": "A", "project": {"id": "x"}}, "project.id", id="id in words"),
        pytest.param({"action": "A", "project": [7]}, "project", id="project is a list"),
    ],
)
def test_a_webhook_names_the_field_that_is_wrong(client: Client, body: dict[str, Any], names: str) -> None:
    response = client.post("/webhook", json=body)
    assert response.status_code == 400
    assert names in detail(response)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/static/x.js", 404),
        ("POST", "/job_status", 404),
        ("GET", "/predict", 405),
        ("DELETE", "/setup", 405),
        ("POST", "/health", 405),
    ],
)
def test_other_addresses_and_methods_are_refused_in_json(client: Client, method: str, path: str, status: int) -> None:
    response = client.open(path, method=method)
    assert response.status_code == status
    assert detail(response).startswith("request: ") and "GET /openapi.json" in detail(response)
    assert ("Allow" in response.headers) is (status == 405)


@pytest.mark.parametrize("mimetype", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_a_web_page_cannot_post_what_a_browser_sends_unasked(client: Client, mimetype: str) -> None:
    response = client.post("/webhook", data=b'{"action":"PROJECT_UPDATED","project":7}', content_type=mimetype)
    assert response.status_code == 400
    assert "Content-Type" in detail(response)


@pytest.mark.parametrize("with_length", [True, False], ids=["with its length", "chunked"])
@pytest.mark.parametrize("route", ["/predict", "/setup", "/webhook", "/train", "/versions"])
def test_a_body_past_the_cap_is_refused(client: Client, route: str, with_length: bool) -> None:
    body = b" " * (1024 * 1024 + 1)
    # A body sent in chunks reaches the app without its length.
    extras = {} if with_length else {"CONTENT_LENGTH": "", "wsgi.input_terminated": True}
    response = client.post(route, data=body, content_type="application/json", extras=extras)
    assert response.status_code == 413
    assert "ZEROMASK_MAX_BODY_MB" in detail(response)


@pytest.mark.parametrize("with_length", [True, False], ids=["with its length", "chunked"])
def test_a_body_as_large_as_the_cap_is_read(client: Client, with_length: bool) -> None:
    body = json.dumps(setup_body()).encode().ljust(1024 * 1024)
    extras = {} if with_length else {"CONTENT_LENGTH": "", "wsgi.input_terminated": True}
    response = client.post("/setup", data=body, content_type="application/json", extras=extras)
    assert answer_of(response) == {"model_version": VERSION}


@pytest.mark.parametrize(
    ("length", "status", "says"),
    [
        ("-1", "400", "Content-Length"),
        ("many", "400", "Content-Length"),
        ("1e3", "400", "Content-Length"),
        ("²", "400", "Content-Length"),
        ("9" * 5000, "413", "larger"),
    ],
)
@pytest.mark.usefixtures("redis")
def test_a_length_that_is_no_number_is_refused(settings: Settings, length: str, status: str, says: str) -> None:
    statuses: list[str] = []
    with closing(QueueClient(settings)) as queues:
        environ = create_environ("/setup", method="POST", host="127.0.0.1", headers={"Content-Type": JSON})
        app = create_app(settings, queues)
        app({**environ, "CONTENT_LENGTH": length}, lambda status, *_: statuses.append(status))  # type: ignore[arg-type]
    assert statuses[0].startswith(status)
    assert says in statuses[0]


def test_whatever_else_goes_wrong_is_told_without_insides(
    client: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> int:
        raise IndexError(f"/etc/{TOKEN}")

    monkeypatch.setattr(QueueClient, "request_predictions", broken)
    response = client.post("/predict", json=predict_body(1))
    assert response.status_code == 500
    sentence = detail(response)
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert record.getMessage().split()[1] in sentence, "the id leads from the answer to the log"
    assert record.exc_info is not None


@pytest.mark.parametrize(
    "text",
    [
        '{"tasks":[],"project":1,"label_config":"x"}',
        ' {\n"label_config" : "a\\u00e9\\"b" , "project":"1.2","tasks": [ {"id":1} , {"id": 2,"d":[1,[2]]} ] } ',
        '{"tasks":null,"project":1,"label_config":"x"}',
        '{"tasks":[{"d":{"id":7},"id":1,"e":[{"id":8}]}],"project":1,"label_config":"x","more":[{"id":9}]}',
        '{"tasks":[{"id":1},],"project":1}',
        '{"tasks":[{"id":1}],}',
        '{"tasks":[{"id":1} {"id":2}]}',
        '{"tasks":[{"id":1}',
        '{"tasks":[{"id":1}]] }',
        '{1:2}',
        '{"a" "b"}',
        '{"a":}',
        '{,}',
        '{"a":1}x',
        '\ufeff{"tasks":[{"id":7}],"project":1,"label_config":"x"}',
    ],
)
def test_reading_what_is_needed_agrees_with_reading_at_once(text: str) -> None:
    try:
        expected = json.loads(text.encode().decode("utf-8-sig"))
    except ValueError:
        with pytest.raises(JobError, match="JSON"):
            parse_predict(io.BytesIO(text.encode()))
        return
    if not isinstance(expected["tasks"], list):
        with pytest.raises(JobError, match="tasks"):
            parse_predict(io.BytesIO(text.encode()))
        return
    for stream in (io.BytesIO(text.encode()), Dripping(text.encode())):
        body = parse_predict(stream)
        assert list(body.tasks) == [task["id"] for task in expected["tasks"]]
        assert body.label_config == expected["label_config"]


class Dripping:
    """A stream that gives one byte at a time."""

    def __init__(self, data: bytes) -> None:
        self._stream = io.BytesIO(data)

    def read(self, _: int, /) -> bytes:
        return self._stream.read(1)
