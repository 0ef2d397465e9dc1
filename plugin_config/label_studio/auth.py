"""The token of Label Studio's API: which requests carry it, and how a personal one is traded for access tokens."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from contextlib import closing

import httpx

from plugin_config.addresses import origin_of
from plugin_config.errors import LabelStudioError
from plugin_config.label_studio.tokens import access_life_s, is_token, personal_token_refused
from plugin_config.label_studio.transport import (
    failing,
    is_down,
    not_its_own,
    not_json,
    read_body,
    read_detail,
    read_json,
)

_ACCESS_TOKEN_S = 240.0  # Label Studio's access tokens live 300 s
_USED_SHARE = 0.8  # of an access token's life, where it tells how long that is


class TokenAuth:
    """Signs requests, the only place that does, and only those that go to Label Studio's own origin.

    Legacy tokens are sent as they are. Personal access tokens are JSON web tokens that are traded for short-lived
    access tokens, once for all threads that need a new one. This is no `httpx.Auth`, because httpx reads the answers in
    between in full and decompressed.

    Args:
        url: of Label Studio.
        api_key: a token of either kind, as `read_token` returns it.
    """

    def __init__(self, url: str, api_key: str) -> None:
        self._url = url
        self._origin = origin_of(httpx.URL(url))
        self._api_key = api_key
        self._personal = api_key.count(".") == 2
        self._lock = threading.Lock()
        self._access = ""
        self._expires = 0.0
        self._trading: Future[str] | None = None

    def send(self, client: httpx.Client, request: httpx.Request) -> httpx.Response:
        """Sign and send a request; get a new access token where the last one is old or refused.

        Args:
            client: sends it.
            request: to Label Studio.

        Returns:
            The answer, for the caller to read and close. Redirects are not followed.

        Raises:
            LabelStudioError: the request goes to another origin (nothing was sent), or the personal token is refused.
            LabelStudioFailing: Label Studio cannot trade the token now.
            httpx.TransportError: it does not answer.
        """
        if not self._personal:
            return self._signed(client, request, f"Token {self._api_key}")
        access = self._access_token(client)
        response = self._signed(client, request, f"Bearer {access}")
        if response.status_code == 401:  # its life may be shorter than it says, or this machine slept
            response.close()
            access = self._access_token(client, refused=access)
            response = self._signed(client, request, f"Bearer {access}")
        return response

    def _signed(self, client: httpx.Client, request: httpx.Request, token: str) -> httpx.Response:
        self._check_origin(request)
        request.headers["Authorization"] = token
        return client.send(request, stream=True, auth=None, follow_redirects=False)

    def _check_origin(self, request: httpx.Request) -> None:
        if origin_of(request.url) != self._origin:
            remedy = "Nothing was sent. Report this: an address was taken for Label Studio's that is not."
            raise LabelStudioError("Label Studio token", f"was about to go to {request.url.host[:100]!r}", remedy)

    def _access_token(self, client: httpx.Client, *, refused: str = "") -> str:
        """An access token that is none of the old ones. Threads that come while one is bought share it, or its error:
        otherwise each of many would wait in turn for a Label Studio that does not answer.
        """
        with self._lock:
            if self._access not in ("", refused) and time.monotonic() <= self._expires:
                return self._access
            trading, first = self._trading, self._trading is None
            if trading is None:
                trading = self._trading = Future()
        if first:
            try:
                access, life_s = self._trade(client)
            except BaseException as error:  # whatever it is: threads that wait for this trade must not wait for ever
                with self._lock:
                    self._trading = None
                trading.set_exception(error)
                raise
            with self._lock:
                self._access, self._expires, self._trading = access, time.monotonic() + life_s, None
            trading.set_result(access)
        return trading.result()

    def _trade(self, client: httpx.Client) -> tuple[str, float]:
        """A new access token, and for how many seconds to use it."""
        refresh = f"{self._url}/api/token/refresh/"
        request = client.build_request("POST", refresh, json={"refresh": self._api_key})
        self._check_origin(request)
        subject = "Label Studio token"
        with closing(client.send(request, stream=True, auth=None, follow_redirects=False)) as response:
            status = response.status_code
            if is_down(response):
                raise failing(self._url, status)
            if status == 404:  # every Label Studio that has personal tokens trades them there
                raise not_its_own(self._url, status)
            if status != 200:
                raise personal_token_refused(self._api_key, status, read_detail(subject, response))
            body = read_body(subject, response)
        try:
            access = str(read_json(subject, response, body)["access"])
        except (KeyError, TypeError) as error:
            raise not_json(subject, response) from error
        if not is_token(access):
            raise not_json(subject, response)
        life_s = access_life_s(access)
        return access, min(_ACCESS_TOKEN_S, _USED_SHARE * life_s) if life_s else _ACCESS_TOKEN_S
