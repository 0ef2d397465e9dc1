"""Bodies as Label Studio sends them, and a client of the backend without a network, for the tests of the backend."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from json import dumps, loads
from typing import Any

import pytest
from falcon.testing import Result, TestClient
from redis import Redis

from backend.app import create_app
from backend.queue_client import QueueClient
from plugin_config.model_version import ModelVersion
from plugin_config.settings import Settings
from plugin_config.vocabulary import parse_vocabulary

TOKEN = "sekrit-token"


def config(*labels: str) -> str:
    inside = "".join(f'<Label value="{label}"/>' for label in labels)
    return f'<View><Image name="i" value="$image"/><BrushLabels name="b" toName="i">{inside}</BrushLabels></View>'


CATS = config("cat")
VERSION = str(ModelVersion.of(Settings(model="builtin"), parse_vocabulary(CATS)))


def setup_body(**changes: Any) -> dict[str, Any]:
    body = {"project": "7.1700000000", "schema": CATS, "hostname": "http://ls", "access_token": TOKEN}
    return {**body, "extra_params": None, **changes}


def predict_body(*tasks: int, **changes: Any) -> dict[str, Any]:
    sent = [{"id": task, "data": {"image": "a.jpg"}, "annotations": [], "predictions": []} for task in tasks]
    params = {"login": None, "password": TOKEN, "context": None}
    return {"tasks": sent, "project": "7.1700000000", "label_config": CATS, "params": params, **changes}


class Client:
    """Sends requests to an app without a network, under one of its host names."""

    def __init__(self, app: Any) -> None:
        self._client = TestClient(app)

    def open(
        self, path: str, *, method: str, json: Any = None, data: bytes | None = None,
        content_type: str | None = None, headers: dict[str, str] | None = None, extras: dict[str, Any] | None = None,
    ) -> Result:  # fmt: skip
        """Send a request; `json` as Label Studio sends it, or `data` as it is. `extras` go into the environment."""
        if json is not None:
            data, content_type = dumps(json).encode(), "application/json"
        path, _, query = path.partition("?")
        sent = {**({} if content_type is None else {"Content-Type": content_type}), **(headers or {})}
        return self._client.simulate_request(
            method, path, query_string=query, body=data, headers=sent, host="127.0.0.1", extras=extras
        )

    def get(self, path: str, **rest: Any) -> Result:
        return self.open(path, method="GET", **rest)

    def post(self, path: str, **rest: Any) -> Result:
        return self.open(path, method="POST", **rest)


ClientOf = Callable[[Settings], Client]


@pytest.fixture(name="client_of")
def client_of_fixture() -> Iterator[ClientOf]:
    """Makes clients of backends, which are closed after the test."""
    with ExitStack() as opened:

        def client_of(settings: Settings) -> Client:
            queues = opened.enter_context(closing(QueueClient(settings)))
            return Client(create_app(settings, queues))

        yield client_of


@pytest.fixture(name="patient")
def patient_fixture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Backends that wait long for a Redis slowed down by a busy machine; for tests of anything but their timeouts."""
    for limit in ("_CONNECT_S", "_ANSWER_S", "_STATUS_S"):
        monkeypatch.setattr(f"backend.queue_client.{limit}", 10.0)


@pytest.fixture(name="client")
def client_fixture(redis: Redis, settings: Settings, patient: None, client_of: ClientOf) -> Client:
    """The backend over the session's Redis."""
    return client_of(settings)


def no_more_threads(*_: Any) -> None:
    """As `Thread.start` of a process that has as many as it may."""
    raise RuntimeError("can't start new thread")


def answer_of(response: Result) -> Any:
    """The JSON of an answer."""
    return loads(response.content)


def detail(response: Result) -> str:
    """The sentence of an error answer, whose shape is checked on the way."""
    answer = answer_of(response)
    assert set(answer) == {"status", "detail"}
    assert answer["status"] == response.status_code
    for inside in ("Traceback", "site-packages", ".py", TOKEN):
        assert inside not in response.text
    return str(answer["detail"])
