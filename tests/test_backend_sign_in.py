"""Which requests the backend lets in, over real sockets: basic auth, the webhooks' secret, the limit on guessing."""

from __future__ import annotations

import base64
import logging
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import pytest
from redis import Redis

from backend.app import ROUTES
from backend.sign_in import Credentials, SignIn, SignInResult
from plugin_config.errors import SettingsError
from plugin_config.settings import Settings
from tests.backend_client import VERSION, patient_fixture, predict_body, setup_body
from tests.served_backend import PASSWORD, SECRET, USER, Backend, backend, signing_in

__all__ = ["patient_fixture"]  # pytest finds fixtures by their being here

HOOK = {"action": "PROJECT_UPDATED", "project": {"id": 7}}


def basic(user: str, password: str, coding: str = "utf-8") -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode(coding)).decode()


GOOD = basic(USER, PASSWORD)


@pytest.fixture
def running(settings: Settings, redis: Redis, patient: None) -> Iterator[Backend]:
    with backend(signing_in(settings)) as running:
        yield running


def test_every_route_but_health_needs_it(running: Backend) -> None:
    for path in [*ROUTES, "/nothing", "//setup", "/health/", "/HEALTH", "/health%2f..%2fmetrics"]:
        for method in ("GET", "POST", "HEAD", "OPTIONS", "DELETE"):
            answer = running.ask(method, path)
            if path == "/health":
                assert answer.status != 401, method
            else:
                assert answer.status == 401, (method, path)
                assert answer.headers["www-authenticate"].startswith("Basic realm=")
    assert running.ask("GET", "/health").content["status"] == "UP"


@pytest.mark.parametrize(
    ("path", "remedy"),
    [
        ("/setup", "model's settings in Label Studio"), ("/webhook", "zeromask connect PROJECT"),
        ("/status", "Sign in with the"), ("/metrics", "Sign in with the"),
    ],
)  # fmt: skip
def test_who_is_refused_is_told_what_helps_there(running: Backend, path: str, remedy: str) -> None:
    answer = running.ask("POST" if path in ("/setup", "/webhook") else "GET", path)
    assert answer.status == 401
    assert remedy in str(answer.content)


def test_label_studio_signs_in(running: Backend) -> None:
    assert running.ask("POST", "/setup", setup_body(), Authorization=GOOD).content == {"model_version": VERSION}
    assert running.ask("POST", "/predict", predict_body(1), Authorization=GOOD).status == 200
    assert running.ask("GET", "/versions", Authorization=GOOD).status == 200
    training = {"action": "START_TRAINING", "project": {"id": 7}}
    assert running.ask("POST", "/webhook", training, Authorization=GOOD).status == 201
    assert running.ask("GET", "/nothing", Authorization=GOOD).status == 404


def test_a_webhook_brings_its_secret(running: Backend) -> None:
    assert running.ask("POST", "/webhook", HOOK, X_Zeromask_Secret=SECRET).status == 201
    assert running.ask("POST", "/webhook", HOOK, X_Zeromask_Secret=SECRET[:-1]).status == 401
    assert running.ask("POST", "/webhook", HOOK, X_Zeromask_Secret="x", Authorization=GOOD).status == 200
    assert running.ask("POST", "/setup", setup_body(), X_Zeromask_Secret=SECRET).status == 401, "for webhooks only"


@pytest.mark.parametrize(
    "authorization",
    [
        basic("studio", "A long password"),
        basic("Studio", PASSWORD),
        basic("", ""),
        basic("studio", ""),
        basic("studio", PASSWORD + "\0"),
        GOOD[:-2],
        GOOD + "=",
        "Basic",
        "Basic " + "é",
        "Bearer " + GOOD.removeprefix("Basic "),
        PASSWORD,
        "Basic " + "A" * 30_000,
    ],
)
def test_nothing_else_signs_in(running: Backend, authorization: str) -> None:
    assert running.ask("GET", "/versions", Authorization=authorization).status == 401


@pytest.mark.usefixtures("patient")
def test_guessing_ends_and_what_was_known_goes_on(
    settings: Settings, redis: Redis, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("backend.access.SignIn", partial(SignIn, clock=Clock()))  # else a slow machine earns a try
    with backend(signing_in(settings)) as running:
        check_guesses(running, caplog)


def check_guesses(running: Backend, caplog: pytest.LogCaptureFixture) -> None:
    assert running.ask("POST", "/webhook", HOOK, X_Zeromask_Secret=SECRET).status == 201
    statuses = [running.ask("GET", "/versions", Authorization=basic("studio", f"guess {n}")).status for n in range(14)]
    assert statuses == [401] * 10 + [429] * 4
    refused = running.ask("GET", "/versions", Authorization=GOOD)
    assert refused.status == 429, "a right guess is refused like a wrong one"
    assert 1 <= int(refused.headers["retry-after"]) <= 7
    assert running.ask("POST", "/webhook", HOOK, X_Zeromask_Secret=SECRET).status == 200
    assert running.ask("GET", "/health").status == 200
    assert caplog.text.count("sign-in: wrong guess from 127.0.0.1 at /versions") >= 10
    for secret in ("guess", PASSWORD, SECRET, GOOD):
        assert secret not in caplog.text.replace("wrong guess", "").replace("guesses", "")


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def credentials(peer: str = "192.0.2.1", password: str = "wrong", path: str = "/setup") -> Credentials:
    return Credentials(peer, path, basic("studio", password), "")


def test_tries_come_back_one_by_one() -> None:
    clock = Clock()
    sign_in = SignIn(signing_in(Settings()), clock=clock)
    results = [sign_in.admit(credentials()) for _ in range(12)]
    assert results == [SignInResult.WRONG] * 10 + [SignInResult.TOO_MANY_GUESSES] * 2
    assert sign_in.admit(credentials(password=PASSWORD)) is SignInResult.TOO_MANY_GUESSES
    assert sign_in.admit(credentials(peer="192.0.2.2")) is SignInResult.WRONG, "another address has its own"
    clock.now += 6
    assert [sign_in.admit(credentials()) for _ in range(2)] == [SignInResult.WRONG, SignInResult.TOO_MANY_GUESSES]
    clock.now += 6
    assert sign_in.admit(credentials(password=PASSWORD)) is SignInResult.ACCEPTED
    assert [sign_in.admit(credentials()) for _ in range(2)] == [SignInResult.WRONG, SignInResult.TOO_MANY_GUESSES]
    assert sign_in.admit(credentials(password=PASSWORD)) is SignInResult.ACCEPTED, "known now"


def test_asking_without_credentials_is_no_guess() -> None:
    sign_in = SignIn(signing_in(Settings()))
    assert {sign_in.admit(Credentials("192.0.2.1", "/setup", "", "")) for _ in range(100)} == {SignInResult.MISSING}
    assert sign_in.admit(credentials(password=PASSWORD)) is SignInResult.ACCEPTED


def test_webhooks_with_a_secret_of_before_do_not_lock_label_studio_out() -> None:
    sign_in = SignIn(signing_in(Settings()), clock=Clock())
    stale = [sign_in.admit(Credentials("192.0.2.1", "/webhook", "", "the secret of before")) for _ in range(12)]
    assert stale[-1] is SignInResult.TOO_MANY_GUESSES
    assert sign_in.admit(Credentials("192.0.2.1", "/webhook", "", SECRET)) is SignInResult.TOO_MANY_GUESSES
    assert sign_in.admit(credentials(password=PASSWORD)) is SignInResult.ACCEPTED


def test_addresses_of_one_network_count_as_one() -> None:
    sign_in = SignIn(signing_in(Settings()), clock=Clock())
    results = [sign_in.admit(credentials(peer=f"2001:db8::{n}")) for n in range(1, 12)]
    assert results[-1] is SignInResult.TOO_MANY_GUESSES
    assert sign_in.admit(credentials(peer="2001:db8:0:1::1")) is SignInResult.WRONG
    assert [sign_in.admit(credentials(peer=peer)) for peer in ["::ffff:192.0.2.9"] * 10 + ["192.0.2.9"]][-1] \
        is SignInResult.TOO_MANY_GUESSES  # fmt: skip


def test_a_crowd_of_strangers_is_forgotten_and_label_studio_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backend.sign_in._MAX_PEERS", 50)
    sign_in = SignIn(signing_in(Settings()), clock=Clock())
    sign_in.admit(credentials(password=PASSWORD))
    for number in range(200):
        sign_in.admit(credentials(peer=f"198.51.100.{number}"))
    for _ in range(11):
        sign_in.admit(credentials())
    assert len(sign_in._guesses._peers) <= 50
    assert sign_in.admit(credentials(password=PASSWORD)) is SignInResult.ACCEPTED


@pytest.mark.parametrize(
    ("password", "coding"),
    [
        ("pässwörter sind lang", "latin-1"),
        ("pässwörter sind lang", "utf-8"),
        ("пароль достаточно длинный", "utf-8"),
    ],
)
def test_a_password_may_have_any_letters(password: str, coding: str) -> None:
    sign_in = SignIn(replace(signing_in(Settings()), password=password))
    right = Credentials("192.0.2.1", "/setup", basic("studio", password, coding), "")
    assert sign_in.admit(right) is SignInResult.ACCEPTED
    replaced = password.encode("latin-1", "replace").decode("latin-1")
    if replaced != password:
        assert sign_in.admit(credentials(password=replaced)) is SignInResult.WRONG


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "masks.example.com", "*", "8.8.8.8"])
def test_without_it_only_this_machine_is_listened_to(host: str) -> None:
    with pytest.raises(SettingsError, match="ZEROMASK_HOST") as caught:
        Settings(host=host).require_guarded()
    for word in ("ZEROMASK_USER", "ZEROMASK_PASSWORD", "ZEROMASK_WEBHOOK_SECRET", "token_urlsafe"):
        assert word in str(caught.value)
    assert signing_in(Settings(host=host)).require_guarded().signs_in


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "localhost", "LOCALHOST", "::1", "[::1]"])
def test_this_machine_needs_none(host: str) -> None:
    assert not Settings(host=host).require_guarded().signs_in
