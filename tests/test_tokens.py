"""Tokens: what people paste, why one is refused, and one trade for many threads."""

from __future__ import annotations

import base64
import json
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from plugin_config.errors import LabelStudioError, LabelStudioFailing
from plugin_config.label_studio.client import LabelStudio
from plugin_config.label_studio.tokens import access_life_s, read_token
from tests.http_server import Answer, Asked, as_json, serving

LEGACY = "0123456789abcdef0123456789abcdef01234567"
PROJECT = {"id": 1, "title": "one", "label_config": "<View/>"}
THREADS = 24


def jwt(**claims: Any) -> str:
    parts = ({"alg": "HS256", "typ": "JWT"}, claims)
    encoded = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts]
    return ".".join([*encoded, "c2lnbmF0dXJl"])


PERSONAL = jwt(token_type="refresh", exp=8_000_000_000, iat=1_700_000_000, jti="a", user_id=1)
DEAD = jwt(token_type="refresh", exp=1_700_000_000, iat=1_600_000_000, jti="a", user_id=1)


@pytest.mark.parametrize("token", [LEGACY, PERSONAL], ids=["legacy", "personal"])
@pytest.mark.parametrize(
    "pasted",
    ["{}", " {}\n", "\t{}\r\n", '"{}"', "'{}'", " '{}' ", '" {} "', "\u201c{}\u201d", "`{}`", "<{}>", "Token {}",
     "Bearer {}", "token  {}", "BEARER {}", '"Token {}"', 'Token "{}"', "Authorization: Token {}",
     "authorization:Bearer {}\n"],
)  # fmt: skip
def test_what_is_pasted_around_a_token_is_left_out(pasted: str, token: str) -> None:
    assert read_token(pasted.format(token)) == token


@pytest.mark.parametrize(
    ("pasted", "told"),
    [
        pytest.param("", "is empty", id="nothing"),
        pytest.param('""', "is empty", id="empty quotes"),
        pytest.param(f"{LEGACY} {LEGACY}", "characters that no token has", id="two tokens"),
        pytest.param(f"{LEGACY[:20]}\n{LEGACY[20:]}", "characters that no token has", id="broken in two lines"),
        pytest.param(f"\ufeff{LEGACY}", "characters that no token has", id="byte order mark"),
        pytest.param(jwt(token_type="access", exp=1, user_id=1), "is an access token.*personal", id="access token"),
        pytest.param(PERSONAL.rpartition(".")[0], "without its last part", id="as Label Studio lists it"),
    ],
)
def test_what_is_no_token_is_told_by_its_kind_and_not_repeated(pasted: str, told: str) -> None:
    with pytest.raises(LabelStudioError, match=f"Label Studio token: .*{told}.*LABEL_STUDIO_API_KEY") as caught:
        LabelStudio("http://localhost:8080", pasted)
    assert LEGACY[:20] not in str(caught.value)
    assert PERSONAL[:60] not in str(caught.value)


@pytest.mark.parametrize("token", ["a.b.c", "a..c", "..", "eyJ.W10.x", "e.bnVsbA.x", f"x.{'A' * 9}.y"])
def test_other_texts_with_two_dots_are_left_to_label_studio(token: str) -> None:
    assert read_token(token) == token
    assert access_life_s(token) == 0


@pytest.mark.parametrize(
    ("token", "status", "detail", "told"),
    [
        pytest.param(PERSONAL, 401, "Token is blacklisted", r"has been revoked \(HTTP 401\)", id="revoked"),
        pytest.param(DEAD, 401, "Token is expired", r"has expired on 2023-11-14 \(HTTP 401\)", id="expired"),
        pytest.param(DEAD, 401, "Token is invalid or expired", "has expired on 2023-11-14", id="or expired"),
        pytest.param(PERSONAL, 401, "Token is invalid", r"was refused \(HTTP 401\) Token is invalid", id="foreign"),
    ],
)
def test_a_personal_token_that_is_refused_is_told_with_the_reason(
    token: str, status: int, detail: str, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with (
        serving(lambda asked: as_json({"detail": detail}, status)) as server,
        LabelStudio(server.url, token, timeout_s=5) as label_studio,
        pytest.raises(LabelStudioError, match=f"Label Studio token: {told}.*personal access token") as caught,
    ):
        label_studio.project(1)
    assert caught.value.status == status
    assert token not in str(caught.value) + caplog.text


def test_no_such_route_for_a_personal_token_is_no_word_of_label_studio() -> None:
    """And is not taken for a project that is gone."""
    with (
        serving(lambda asked: as_json({"detail": "Not found."}, 404)) as server,
        LabelStudio(server.url, PERSONAL, timeout_s=5) as label_studio,
        pytest.raises(LabelStudioFailing, match=r"answered HTTP 404.*LABEL_STUDIO_URL") as caught,
    ):
        label_studio.project(1)
    assert caught.value.status == 0


def test_a_legacy_token_where_they_are_off_is_told_with_the_remedy() -> None:
    """The sentence is Label Studio 1.23.2's."""
    off = "Authentication token no longer valid: legacy token authentication has been disabled for this organization"
    with (
        serving(lambda asked: as_json({"detail": off, "status_code": 401}, 401)) as server,
        LabelStudio(server.url, LEGACY, timeout_s=5) as label_studio,
    ):
        with pytest.raises(LabelStudioError, match=r"Legacy tokens are off.*personal access token.*Organization"):
            label_studio.project(1)
        with pytest.raises(LabelStudioError, match=r"image of task 3.*Legacy tokens are off"):
            label_studio.stream(label_studio.address("/data/upload/1/a.png"), task=3, project=1)


class Seller:
    """A Label Studio that takes a while to trade tokens and knows only the last one it sold."""

    def __init__(self, *, failing: int = 0, **claims: Any) -> None:
        self.lock, self.sold, self.claims, self.failing = threading.Lock(), 0, claims, failing
        self.asked_meanwhile = threading.Event()

    def __call__(self, asked: Asked) -> Answer:
        if "refresh" in asked.path:
            time.sleep(0.3)  # so that the other threads come in between
            with self.lock:
                self.sold += 1
            return Answer(self.failing) if self.failing else as_json({"access": self.token()})
        good = asked.headers["Authorization"] == f"Bearer {self.token()}"
        return as_json(PROJECT) if good else as_json({"detail": "Given token not valid"}, 401)

    def token(self) -> str:
        return jwt(token_type="access", number=self.sold, **self.claims)


def ask_at_once(label_studio: LabelStudio, threads: int = THREADS) -> list[BaseException | None]:
    together = threading.Barrier(threads)

    def ask(_: int) -> BaseException | None:
        together.wait(60)
        try:
            assert label_studio.project(1).id == 1
        except LabelStudioError as error:
            return error
        return None

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(ask, range(threads)))


def test_many_threads_trade_once_at_first_and_once_when_it_is_refused() -> None:
    seller = Seller()
    with serving(seller) as server, LabelStudio(server.url, PERSONAL, timeout_s=10) as label_studio:
        assert ask_at_once(label_studio) == [None] * THREADS
        assert seller.sold == 1
        seller.sold += 1  # the one that was sold is dead at once
        assert ask_at_once(label_studio) == [None] * THREADS
        assert server.paths().count("POST /api/token/refresh/") == 2


def test_many_threads_share_the_failure_of_a_trade_and_the_next_ones_try_again() -> None:
    seller = Seller(failing=503)
    with serving(seller) as server, LabelStudio(server.url, PERSONAL, timeout_s=10) as label_studio:
        found = ask_at_once(label_studio)
        assert all(isinstance(error, LabelStudioFailing) for error in found)
        assert seller.sold < THREADS / 2, "not one trade after the other; on a busy machine some come late"
        seller.failing = 0
        assert label_studio.project(1).id == 1


def test_the_life_of_an_access_token_is_taken_from_its_dates_and_no_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The two clocks are years apart; the token says that it lives 60 s."""
    now = [1000.0]
    seller = Seller(iat=100_000, exp=100_060)
    with serving(seller) as server, LabelStudio(server.url, PERSONAL, timeout_s=10) as label_studio:
        monkeypatch.setattr("plugin_config.label_studio.auth.time.monotonic", lambda: now[0])
        for later, sold in ((0.0, 1), (40.0, 1), (49.0, 2)):
            now[0] = 1000.0 + later
            assert label_studio.project(1).id == 1
            assert seller.sold == sold
    assert [asked.path for asked in server.asked if "refresh" in asked.path] == ["/api/token/refresh/"] * 2
