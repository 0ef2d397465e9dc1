"""The token of Label Studio's API: which requests carry it, and how a personal one is traded for access tokens."""

from __future__ import annotations

import time
from contextlib import closing

import httpx

from plugin_config.addresses import origin_of
from plugin_config.errors import LabelStudioError
from plugin_config.label_studio.transport import TOKEN_REMEDY, failing, is_down, not_json, read_body, read_json

_ACCESS_TOKEN_S = 240  # Label Studio's access tokens live 300 s


class TokenAuth:
    """Signs requests, the only place that does, and only those that go to Label Studio's own origin.

    Legacy tokens are sent as they are. Personal access tokens are JSON web tokens that are traded for short-lived
    access tokens. This is no `httpx.Auth`, because httpx reads the answers in between in full and decompressed.

    Args:
        url: of Label Studio.
        api_key: a token of either kind.
    """

    def __init__(self, url: str, api_key: str) -> None:
        self._url = url
        self._origin = origin_of(httpx.URL(url))
        self._api_key = api_key
        self._personal = api_key.count(".") == 2
        self._access = ""
        self._expires = 0.0

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
        if time.monotonic() > self._expires:
            self._trade(client)
        response = self._signed(client, request, f"Bearer {self._access}")
        if response.status_code == 401:
            response.close()
            self._trade(client)
            response = self._signed(client, request, f"Bearer {self._access}")
        return response

    def _signed(self, client: httpx.Client, request: httpx.Request, token: str) -> httpx.Response:
        self._check_origin(request)
        request.headers["Authorization"] = token
        return client.send(request, stream=True, auth=None, follow_redirects=False)

    def _check_origin(self, request: httpx.Request) -> None:
        if origin_of(request.url) != self._origin:
            remedy = "Nothing was sent. Report this: an address was taken for Label Studio's that is not."
            raise LabelStudioError("Label Studio token", f"was about to go to {request.url.host[:100]!r}", remedy)

    def _trade(self, client: httpx.Client) -> None:
        refresh = f"{self._url}/api/token/refresh/"
        request = client.build_request("POST", refresh, json={"refresh": self._api_key})
        self._check_origin(request)
        subject = "Label Studio token"
        with closing(client.send(request, stream=True, auth=None, follow_redirects=False)) as response:
            status = response.status_code
            if is_down(response):
                raise failing(self._url, status)
            if status != 200:
                raise LabelStudioError(subject, f"was refused (HTTP {status})", TOKEN_REMEDY, status=status)
            body = read_body(subject, response)
        try:
            access = str(read_json(subject, response, body)["access"])
        except (KeyError, TypeError) as error:
            raise not_json(subject, response) from error
        if not is_token(access):
            raise not_json(subject, response)
        self._access = access
        self._expires = time.monotonic() + _ACCESS_TOKEN_S


def is_token(text: str) -> bool:
    """Whether a text can stand in a header as a token."""
    return text.isascii() and text.isprintable() and " " not in text
