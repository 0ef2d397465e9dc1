"""Bodies as Label Studio sends them, and a client of the backend without a network, for the tests of the web half."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import Any

import pytest
from redis import Redis
from werkzeug.test import Client
from werkzeug.wrappers import Response

from backend.queues import WebQueues
from backend.wsgi import create_app
from plugin_config.settings import Settings
from plugin_config.vocabulary import parse_vocabulary, version_name

TOKEN = "sekrit-token"


def config(*labels: str) -> str:
    inside = "".join(f'<Label value="{label}"/>' for label in labels)
    return f'<View><Image name="i" value="$image"/><BrushLabels name="b" toName="i">{inside}</BrushLabels></View>'


CATS = config("cat")
VERSION = version_name("builtin", parse_vocabulary(CATS))


def setup_body(**changes: Any) -> dict[str, Any]:
    body = {"project": "7.1700000000", "schema": CATS, "hostname": "http://ls", "access_token": TOKEN}
    return {**body, "extra_params": None, **changes}


def predict_body(*tasks: int, **changes: Any) -> dict[str, Any]:
    sent = [{"id": task, "data": {"image": "a.jpg"}, "annotations": [], "predictions": []} for task in tasks]
    params = {"login": None, "password": TOKEN, "context": None}
    return {"tasks": sent, "project": "7.1700000000", "label_config": CATS, "params": params, **changes}


ClientOf = Callable[[Settings], Client]


@pytest.fixture(name="client_of")
def client_of_fixture() -> Iterator[ClientOf]:
    """Makes clients of backends, which are closed after the test."""
    with ExitStack() as opened:

        def client_of(settings: Settings) -> Client:
            queues = opened.enter_context(closing(WebQueues(settings)))
            return Client(create_app(settings, queues), Response)

        yield client_of


@pytest.fixture(name="patient")
def patient_fixture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Backends that bear with a Redis slowed down by a busy machine; for tests of anything but their patience."""
    for limit in ("_CONNECT_S", "_ANSWER_S", "_PULSE_S"):
        monkeypatch.setattr(f"backend.queues.{limit}", 10.0)


@pytest.fixture(name="client")
def client_fixture(redis: Redis, settings: Settings, patient: None, client_of: ClientOf) -> Client:
    """The backend over the session's Redis."""
    return client_of(settings)


def answer_of(response: Response) -> Any:
    """The JSON of an answer."""
    return json.loads(response.get_data())


def detail(response: Response) -> str:
    """The sentence of an error answer, whose shape is checked on the way."""
    answer = answer_of(response)
    assert set(answer) == {"status", "detail"}
    assert answer["status"] == response.status_code
    for inside in ("Traceback", "site-packages", ".py", TOKEN):
        assert inside not in response.get_data(as_text=True)
    return str(answer["detail"])
