"""The one Label Studio client: tokens, projects, tasks, images, predictions.

Written on httpx and not on the SDK's client, because that one loads 55 MB of generated models, has no bulk reading of
chosen tasks, and hides which request failed. It must not know about queues or masks.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpx

from plugin_config.errors import LabelStudioError, LabelStudioUnreachable

_ACCESS_TOKEN_S = 240  # Label Studio's access tokens live 300 s
_PAGE = 500
_AWAY = (429, 502, 503, 504)  # Label Studio itself is not there; a 500 may be about the one file
_TOKEN_REMEDY = (
    "Create a personal access token under Account & Settings in Label Studio and set LABEL_STUDIO_API_KEY to it."
)


@dataclass(frozen=True)
class Project:
    """What this product needs to know of a project. `model_version` is what its annotators are shown, "" = nothing."""

    id: int
    title: str
    label_config: str
    model_version: str


@dataclass(frozen=True)
class Task:
    """One task: `data` as imported, `versions` of the predictions it has, and how many annotations."""

    id: int
    data: Mapping[str, Any]
    versions: frozenset[str]
    annotations: int


@dataclass(frozen=True)
class StoredPrediction:
    """A prediction as Label Studio keeps it."""

    id: int
    task: int
    version: str
    result: Sequence[Mapping[str, Any]]
    score: float | None


class TokenAuth(httpx.Auth):
    """Both kinds of Label Studio token: legacy ones are sent as they are; personal access tokens are JSON web tokens
    that only buy short-lived access tokens.
    """

    def __init__(self, url: str, api_key: str) -> None:
        self._url = url
        self._refresh_url = f"{url}/api/token/refresh/"
        self._api_key = api_key
        self._personal = api_key.count(".") == 2
        self._access = ""
        self._expires = 0.0

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Sign a request; trade the personal token for an access token when that one is old or refused."""
        if not self._personal:
            request.headers["Authorization"] = f"Token {self._api_key}"
            yield request
            return
        if time.monotonic() > self._expires:
            self._keep((yield self._refresh()))
        request.headers["Authorization"] = f"Bearer {self._access}"
        response = yield request
        if response.status_code == 401:
            self._keep((yield self._refresh()))
            request.headers["Authorization"] = f"Bearer {self._access}"
            yield request

    def _refresh(self) -> httpx.Request:
        return httpx.Request("POST", self._refresh_url, json={"refresh": self._api_key})

    def _keep(self, response: httpx.Response) -> None:
        # Read here and not by `requires_response_body`, which would read images whole before their size is checked.
        response.read()
        if _is_down(response):
            raise _unreachable(self._url, f"answered HTTP {response.status_code}", response.status_code)
        if response.status_code != 200:
            raise LabelStudioError(
                "Label Studio token", f"was refused (HTTP {response.status_code})", _TOKEN_REMEDY,
                status=response.status_code,
            )  # fmt: skip
        try:
            self._access = str(response.json()["access"])
        except (ValueError, KeyError, TypeError) as error:
            raise _not_json("Label Studio token", response) from error
        self._expires = time.monotonic() + _ACCESS_TOKEN_S


class LabelStudio:
    """Holds one HTTP connection pool to one Label Studio. Safe to share between threads; close it or use `with`.

    Args:
        url: address with scheme, e.g. "http://localhost:8080".
        api_key: legacy token or personal access token.
        timeout_s: longest wait for an answer, seconds.

    Every method raises LabelStudioUnreachable when there is no answer or a server error (try again later), and
    LabelStudioError with the HTTP status when the request is refused (trying again is useless).
    """

    def __init__(self, url: str, api_key: str, *, timeout_s: float = 60.0) -> None:
        self.url = url.rstrip("/")
        if not _is_address(self.url):
            raise LabelStudioError(
                f"Label Studio at {url!r}",
                "is not an address",
                "Set LABEL_STUDIO_URL with its scheme, http://host:port.",
            )
        if not (api_key.isascii() and api_key.isprintable()) or " " in api_key:
            raise LabelStudioError("Label Studio token", "holds characters that no token has", _TOKEN_REMEDY)
        self._client = httpx.Client(
            base_url=self.url, auth=TokenAuth(self.url, api_key), timeout=timeout_s,
            trust_env=not _is_loopback(self.url),
        )  # fmt: skip

    def __enter__(self) -> LabelStudio:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the connections back."""
        self._client.close()

    def request(self, method: str, path: str, **options: Any) -> Any:
        """Any API call; returns the parsed JSON, None for an empty answer. `options` as httpx takes them."""
        try:
            response = self._client.request(method, path, **options)
        except httpx.TransportError as error:
            raise _unreachable(self.url, f"{type(error).__name__}: {error}") from error
        if _is_down(response):
            raise _unreachable(self.url, f"answered HTTP {response.status_code}", response.status_code)
        if response.status_code in range(300, 400):
            remedy = "Set LABEL_STUDIO_URL to where it leads, without the path of a page."
            problem = f"is redirected to {response.headers.get('location', 'nowhere')[:200]}"
            raise LabelStudioError(f"{method} {path}", problem, remedy, status=response.status_code)
        if response.status_code >= 400:
            raise _refused(method, path, response)
        if not response.content:
            return None
        try:
            return response.json()
        except ValueError as error:
            raise _not_json(f"{method} {path}", response) from error

    def project(self, project: int) -> Project:
        """Read one project."""
        row = self.request("GET", f"/api/projects/{project}/")
        with _as_expected("a project"):
            return Project(row["id"], row["title"], row["label_config"] or "", row.get("model_version") or "")

    def show_version(self, project: int, version: str) -> None:
        """Make `version` the one annotators are shown and the one that orders their queue."""
        self.request("PATCH", f"/api/projects/{project}/", json={"model_version": version})

    def model_titles(self, project: int) -> frozenset[str]:
        """Titles of the models connected to a project. Label Studio puts the first one where a version could stand
        (`Project.model_version`), meaning "whatever that model says now".
        """
        rows = self.request("GET", "/api/ml/", params={"project": project})
        with _as_expected("the connected models"):
            return frozenset(row["title"] for row in rows)

    def tasks(self, project: int, ids: Sequence[int]) -> list[Task]:
        """Read the tasks among `ids` that (still) exist in the project, in one request."""
        if not ids:
            return []
        query = json.dumps({"selectedItems": {"all": False, "included": list(ids)}})
        rows = self._task_page(project, page=1, page_size=len(ids), include="data", query=query)["tasks"]
        return [_task(row) for row in rows if row["id"] in set(ids)]

    def all_tasks(self, project: int) -> Iterator[Task]:
        """Every task of the project without its data, page by page."""
        page, seen, total = 1, 0, 1
        while seen < total:
            answer = self._task_page(project, page=page, page_size=_PAGE, include="id")
            if not answer["tasks"]:
                return
            yield from (_task(row) for row in answer["tasks"])
            page, seen, total = page + 1, seen + len(answer["tasks"]), answer["total"]

    def predictions(self, task: int) -> list[StoredPrediction]:
        """Every prediction of a task, with its regions."""
        rows = self.request("GET", "/api/predictions/", params={"task": task})
        return [_prediction(row) for row in rows]

    def create_prediction(
        self, task: int, result: Sequence[Mapping[str, Any]], *, score: float, version: str
    ) -> StoredPrediction:
        """Store one prediction and return what was really stored."""
        body = {"task": task, "result": list(result), "score": score, "model_version": version}
        return _prediction(self.request("POST", "/api/predictions/", json=body))

    def delete_prediction(self, prediction: int) -> None:
        """Delete one prediction. Annotations made from it forget where they came from: never for annotated tasks."""
        self.request("DELETE", f"/api/predictions/{prediction}/")

    def is_own(self, url: str) -> bool:
        """Whether an address is served by this Label Studio: relative, or on its scheme, host and port."""
        if url.startswith("/"):
            return not url.startswith(("//", "/\\"))  # those name another host
        return _origin(url) == _origin(self.url)

    def presigned_path(self, uri: str, *, task: int) -> str:
        """The address under which Label Studio redirects to a file in its cloud storages (`s3://`, `gs://`, ...)."""
        return f"{self.url}/tasks/{task}/presign/?fileuri={base64.urlsafe_b64encode(uri.encode()).decode()}"

    def stream(self, url: str) -> httpx.Response:
        """Open a file Label Studio serves; the caller reads and closes it. Redirects are not followed. An HTTP 500 is
        left to the caller: it may be about this one file.
        """
        try:
            response = self._client.send(self._client.build_request("GET", urljoin(self.url, url)), stream=True)
        except httpx.TransportError as error:
            raise _unreachable(self.url, f"{type(error).__name__}: {error}") from error
        if response.status_code in _AWAY:
            response.close()
            raise _unreachable(self.url, f"answered HTTP {response.status_code}", response.status_code)
        return response

    def _task_page(self, project: int, *, page: int, page_size: int, include: str, **query: str) -> Any:
        # `fields=all` is what fills predictions_model_versions; `include` keeps the heavy columns away.
        wanted = f"id,{include},predictions_model_versions,total_annotations"
        params = {"project": project, "page": page, "page_size": page_size, "fields": "all", "include": wanted, **query}
        return self.request("GET", "/api/tasks/", params=params)


def _origin(url: str) -> tuple[str, str, int | None] | None:
    try:
        parts = httpx.URL(url)
    except httpx.InvalidURL:
        return None
    return parts.scheme, parts.host, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def _is_loopback(url: str) -> bool:
    """Whether a proxy has no business between us and this address."""
    host = urlsplit(url).hostname or ""
    return host == "localhost" or host.startswith("127.") or host == "::1"


def _is_address(url: str) -> bool:
    try:
        parts = httpx.URL(url)
    except httpx.InvalidURL:
        return False
    return parts.scheme in ("http", "https") and bool(parts.host)


def _is_down(response: httpx.Response) -> bool:
    return response.status_code == 429 or response.status_code >= 500


def _unreachable(url: str, problem: str, status: int = 0) -> LabelStudioUnreachable:
    remedy = "Check that it runs and that LABEL_STUDIO_URL is right; the work is kept and goes on by itself."
    return LabelStudioUnreachable(f"Label Studio at {url}", problem, remedy, status=status)


def _not_json(subject: str, response: httpx.Response) -> LabelStudioError:
    remedy = "Check that LABEL_STUDIO_URL is Label Studio itself and not a login page or a proxy."
    return LabelStudioError(subject, "answered something that is not JSON", remedy, status=response.status_code)


def _refused(method: str, path: str, response: httpx.Response) -> LabelStudioError:
    remedy = "Check the address and that the user of LABEL_STUDIO_API_KEY may see this project."
    if response.status_code in (401, 403):
        remedy = _TOKEN_REMEDY
    try:
        body = response.json()
        detail = str(body.get("validation_errors") or body.get("detail") or "") if isinstance(body, dict) else ""
    except ValueError:
        detail = ""
    problem = f"was refused (HTTP {response.status_code}) {detail[:300]}".rstrip()
    return LabelStudioError(f"{method} {path}", problem, remedy, status=response.status_code)


def _task(row: Any) -> Task:
    with _as_expected("a task"):
        versions = row.get("predictions_model_versions") or ""
        names = frozenset(name.strip() for name in versions.split(",") if name.strip())
        return Task(int(row["id"]), dict(row.get("data") or {}), names, int(row.get("total_annotations") or 0))


def _prediction(row: Any) -> StoredPrediction:
    with _as_expected("a prediction"):
        version, result = row.get("model_version") or "", list(row["result"])
        return StoredPrediction(int(row["id"]), int(row["task"]), version, result, row.get("score"))


@contextmanager
def _as_expected(subject: str) -> Iterator[None]:
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        remedy = "This version of Label Studio is not known here; 1.23 is."
        told = f"Label Studio's answer about {subject}"
        raise LabelStudioError(told, f"is not as expected ({error!r})", remedy) from error
