"""The one Label Studio client: projects, tasks, images, annotations, predictions.

Written on httpx and not on the SDK's client, because that one loads 55 MB of generated models, cannot read chosen tasks
in bulk, and hides which request failed.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import httpx

from plugin_config.addresses import (
    ALLOWED_PATHS,
    as_browsers_read,
    is_file_of_task,
    label_studio_prefix,
    origin_of,
    read_address,
    scheme_of,
    shown,
    trimmed,
)
from plugin_config.certificates import trust
from plugin_config.errors import AnswerTooLarge, ImageUnavailable, LabelStudioError, ProjectGone, SettingsError
from plugin_config.http_requests import user_agent
from plugin_config.http_responses import UNCOMPRESSED, hide_location
from plugin_config.json_records import json_name
from plugin_config.label_studio.annotations import (
    ANNOTATED,
    SKIPPED,
    AnnotatedTask,
    Annotation,
    read_annotated_task,
    read_annotation,
)
from plugin_config.label_studio.auth import TokenAuth
from plugin_config.label_studio.names import LabelStudioNames
from plugin_config.label_studio.predictions import StoredPrediction, prediction_body, read_prediction
from plugin_config.label_studio.task_pages import chosen_rows, task_rows
from plugin_config.label_studio.tokens import read_token
from plugin_config.label_studio.transport import (
    failing,
    is_down,
    read_body,
    read_json,
    refused,
    unexpected_answer,
    unreachable,
)
from plugin_config.settings import is_loopback

_CONNECT_S = 10.0  # a network that drops packets is told by then
_UPLOADS = re.compile(r"/?upload/")  # what Label Studio writes into exports and its SDK reads
_WITHOUT_SLASH = re.compile(r"(?:data|static|storage-data)/")
_AWAY = (429, 502, 503, 504)  # Label Studio itself is down; a 500 may be about the one file


@dataclass(frozen=True)
class Project:
    """A project.

    Attributes:
        id, title, label_config: as Label Studio has them.
        model_version: of the predictions that annotators are shown; "" = none.
        tasks: how many it has.
        created: when it was created, as Label Studio writes it.
        sampling: how the next task of "Label All Tasks" is chosen; see `plugin_config.label_studio.next_task`.
    """

    id: int
    title: str
    label_config: str
    model_version: str
    tasks: int = 0
    created: str = ""
    sampling: str = ""


@dataclass(frozen=True)
class Task:
    """A task.

    Attributes:
        data: as imported.
        versions: of the predictions it has.
        annotations: how many it has.
        score: mean score of its predictions of the version that annotators are shown; None where it has none.
        unreadable: why its data could not be read; "" = it was.
    """

    id: int
    data: Mapping[str, Any]
    versions: frozenset[str]
    annotations: int
    score: float | None = None
    unreadable: str = ""


class LabelStudio:
    """Holds an HTTP connection pool to a Label Studio. Safe to share between threads; close it or use `with`.

    Args:
        url: address with scheme, e.g. "http://localhost:8080".
        api_key: legacy token or personal access token.
        timeout_s: longest wait for an answer, seconds; a connection is waited for ten at most.
        public_urls: other addresses of the same Label Studio, comma list.
        contact: whom to ask about our requests; see `plugin_config.http_requests.user_agent`.
        ca_bundle: PEM file of further authorities whose certificates are trusted; "" = none.

    Raises:
        LabelStudioError: the address or the token is none.
        SettingsError: the bundle cannot be read, or a proxy of the environment is none.

    Every method raises LabelStudioUnreachable when there is no answer, LabelStudioFailing after HTTP 429, 5xx or a 404
    that is not Label Studio's own (try again later), and LabelStudioError with the HTTP status when the request is
    refused (trying again is useless).
    """

    def __init__(
        self, url: str, api_key: str, *, timeout_s: float = 60.0, ca_bundle: str = "", public_urls: str = "",
        contact: str = "",
    ) -> None:  # fmt: skip
        self.url = url.strip(" ").rstrip("/")
        try:
            self._root = read_address(self.url)
        except ValueError as error:  # without the address itself: it may hold a password
            remedy = "Set LABEL_STUDIO_URL with its scheme and without a user name, http://host:port."
            raise LabelStudioError("address of Label Studio", f"is not an address: {error}", remedy) from error
        self._names = LabelStudioNames.of(self._root, public_urls)
        self.user_agent = user_agent(contact)
        self._auth = TokenAuth(self.url, read_token(api_key))
        proxied = not is_loopback(self._root.host)  # else no proxy of the environment applies
        try:
            self._client = httpx.Client(
                base_url=self._root, timeout=httpx.Timeout(timeout_s, connect=min(timeout_s, _CONNECT_S)),
                headers={**UNCOMPRESSED, "User-Agent": self.user_agent}, event_hooks={"response": [hide_location]},
                verify=trust(ca_bundle), trust_env=proxied,
            )  # fmt: skip
        except (ImportError, ValueError, httpx.InvalidURL) as error:  # httpx': of SOCKS, another scheme, a wrong port
            problem = "name a proxy of the environment that cannot be used"
            remedy = "Give an http:// one with its port, or unset them for zeromask."
            raise SettingsError("HTTPS_PROXY, HTTP_PROXY, ALL_PROXY", problem, remedy) from error

    def __enter__(self) -> LabelStudio:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the connections back."""
        self._client.close()

    def request(self, method: str, path: str, **options: Any) -> Any:
        """Any API call; returns the parsed JSON, None for an empty answer. `options` as httpx takes them."""
        subject = f"{method} {path}"
        request = self._client.build_request(method, path, **options)
        try:
            with closing(self._auth.send(self._client, request)) as response:
                if is_down(response):
                    raise failing(self.url, response.status_code)
                if response.is_error or response.is_redirect:
                    raise refused(self.url, subject, response)
                body = read_body(subject, response)
        except httpx.TransportError as error:
            raise unreachable(self.url, error) from error
        return read_json(subject, response, body) if body else None

    def project(self, project: int) -> Project:
        """Read one project.

        Raises:
            ProjectGone: there is none of this number that the token's user may see.
        """
        try:
            row = self.request("GET", f"/api/projects/{project}/")
        except LabelStudioError as error:
            if error.status != 404:
                raise
            raise ProjectGone(error.subject, error.problem, error.remedy, status=404) from error
        with _as_expected("a project"):
            shown, tasks = row.get("model_version") or "", int(row.get("task_number") or 0)
            created, sampling = str(row.get("created_at") or ""), str(row.get("sampling") or "")
            return Project(row["id"], row["title"], row["label_config"] or "", shown, tasks, created, sampling)

    def show_version(self, project: int, version: str) -> None:
        """Show annotators the predictions of a version, and order their tasks by its scores."""
        self.request("PATCH", f"/api/projects/{project}/", json={"model_version": version})

    def model_titles(self, project: int) -> frozenset[str]:
        """Titles of the models connected to a project. Label Studio may put one of them in `Project.model_version`,
        which then means the present version of that model.
        """
        rows = self.request("GET", "/api/ml/", params={"project": project})
        with _as_expected("the connected models"):
            return frozenset(row["title"] for row in rows)

    def tasks(self, project: int, ids: Sequence[int], *, data: bool = True) -> list[Task]:
        """Read those of the tasks that (still) exist in the project, in one request where the answer is not too large.
        One too large even alone comes without its data and says why, to hold up no other; without `data`, none is read.
        """
        if not ids:
            return []
        try:
            return self._tasks(project, ids, include="data" if data else "id")
        except AnswerTooLarge as error:
            if len(ids) == 1:
                return [replace(task, unreadable=str(error)) for task in self._tasks(project, ids, include="id")]
        half = len(ids) // 2
        return self.tasks(project, ids[:half]) + self.tasks(project, ids[half:])

    def all_tasks(self, project: int, *, after: int = 0) -> Iterator[Task]:
        """Every task of the project with a higher id than `after`, by id, without its data, page by page."""
        return (_task(row) for row in task_rows(self, project, include="predictions_score", after=after))

    def predictions(self, task: int) -> list[StoredPrediction]:
        """Every prediction of a task, with its regions."""
        rows = self.request("GET", "/api/predictions/", params={"task": task})
        with _as_expected("predictions"):
            return [_prediction(row) for row in rows]

    def annotated_tasks(self, project: int, *, skipped: bool = False) -> Iterator[AnnotatedTask]:
        """Every task of the project with an annotation that is not cancelled, without data, page by page; with
        `skipped` those with a cancelled one, too.
        """
        filters = [ANNOTATED, *[SKIPPED] * skipped]
        for row in task_rows(self, project, include="annotations_ids,updated_at", either=filters):
            with _as_expected("a task"):
                task = read_annotated_task(row)
            yield task

    def annotations(self, task: int) -> list[Annotation]:
        """Every submitted annotation of a task, with its regions; drafts and cancelled ones are not among them."""
        rows = self.request("GET", f"/api/tasks/{task}/annotations/")
        with _as_expected("annotations"):
            return [read_annotation(row, task) for row in rows]

    def parent_predictions(self, task: int) -> frozenset[int]:
        """The predictions that annotations of a task were made from."""
        parents = (annotation.parent_prediction for annotation in self.annotations(task))
        return frozenset(parent for parent in parents if parent is not None)

    def create_prediction(
        self, task: int, result: Sequence[Mapping[str, Any]], *, score: float, version: str,
        missed: float | None = None,
    ) -> StoredPrediction:  # fmt: skip
        """Store one prediction and return what was really stored; `missed` as in `StoredPrediction`, in [0, 1]."""
        body = prediction_body(task, result, score=score, version=version, missed=missed)
        return _prediction(self.request("POST", "/api/predictions/", json=body))

    def delete_prediction(self, prediction: int) -> None:
        """Delete one prediction, unless somebody else has. Not of an annotated task: annotations made from it lose
        `parent_prediction`.
        """
        try:
            self.request("DELETE", f"/api/predictions/{prediction}/")
        except LabelStudioError as error:
            if error.status != 404:
                raise

    def address(self, url: str, base: httpx.URL | None = None) -> httpx.URL:
        """Where an image's address leads, as a browser resolves it on a page of Label Studio. One under another name of
        this Label Studio leads to LABEL_STUDIO_URL.

        An address without scheme must begin with a slash, or be a path of an upload (`upload/...`), or of one of the
        folders that Label Studio serves (`data/...`, `static/...`, `storage-data/...`).

        Args:
            url: from a task, or a `Location` header.
            base: what a `Location` is relative to; None = it is from a task.

        Raises:
            ValueError: it is no address; `plugin_config.addresses.read_address` says why.
        """
        text = as_browsers_read(url)
        if text.startswith("///"):  # browsers and parsers differ on what is the host
            raise ValueError("it begins with three slashes")
        if base is None:
            if _UPLOADS.match(text):
                text = f"/data/{text.removeprefix('/')}"
            elif _WITHOUT_SLASH.match(text):
                text = f"/{text}"
            base = self._root if text.startswith("/") else None
        found = read_address(text, base)
        return self._names.own(found) or found

    def is_own(self, url: httpx.URL) -> bool:
        """Whether an address, as `address` returns it, is served by this Label Studio: on LABEL_STUDIO_URL's origin."""
        return origin_of(url) == origin_of(self._root)

    def presigned_path(self, uri: str, *, task: int) -> str:
        """The address under which Label Studio redirects to, or sends, a file in the cloud storages of the task's
        project (`s3://`, `gs://`, ...). Its route of the project, `/projects/N/presign/`, reads the same storages.

        Raises:
            ValueError: the address names no bucket or no file.
        """
        uri = trimmed(uri)
        bucket, slash, file = uri.partition("://")[2].partition("/")
        if not (bucket and slash and file):
            raise ValueError("it must name a bucket and a file, s3://bucket/file.png")
        uri = scheme_of(uri) + uri[uri.index(":") :]  # Label Studio knows schemes in lower case only
        return f"{self.url}/tasks/{task}/presign/?fileuri={base64.urlsafe_b64encode(uri.encode()).decode()}"

    def check_file(self, url: httpx.URL, *, task: int, project: int) -> None:
        """Check that an address of Label Studio serves a file of the task.

        Raises:
            ImageUnavailable: it does not, as far as its route tells.
        """
        if not is_file_of_task(url, below=self._names.below, task=task, project=project):
            problem = f"is at an address of Label Studio that holds no file of this task, {shown(url.path)}"
            remedy, prefix = ALLOWED_PATHS, label_studio_prefix(url)
            if prefix and prefix != self._names.below:
                remedy += f" If browsers see Label Studio below {prefix[:100]}, add that to LABEL_STUDIO_PUBLIC_URL."
            raise ImageUnavailable(f"image of task {task}", problem, remedy)

    def is_upload(self, url: httpx.URL) -> bool:
        """Whether an address of Label Studio is of an uploaded file, of which none ever changes."""
        return url.path.removeprefix(self._names.below).startswith("/data/upload/")

    def stream(
        self, url: httpx.URL, *, task: int, project: int, headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        """Open a file of a task that Label Studio serves; the caller reads it, without decompressing, and closes it.
        Redirects are not followed. An HTTP 500 is left to the caller: it may be about this one file.

        Args:
            url: on Label Studio.
            task: id of the task.
            project: id of its project.
            headers: sent with the request.

        Raises:
            ImageUnavailable: no file of this task is at the address; nothing was sent.
            LabelStudioError: the token is refused; or the address is not on Label Studio, and nothing was sent.
        """
        self.check_file(url, task=task, project=project)
        try:
            response = self._auth.send(self._client, self._client.build_request("GET", url, headers=headers))
            if response.status_code == 401:  # the token's fault, and not the file's
                with closing(response):
                    raise refused(self.url, f"image of task {task}", response)
        except httpx.TransportError as error:
            raise unreachable(self.url, error) from error
        if response.status_code in _AWAY:
            response.close()
            raise failing(self.url, response.status_code)
        return response

    def _tasks(self, project: int, ids: Sequence[int], *, include: str) -> list[Task]:
        return [_task(row) for row in chosen_rows(self, project, ids, include=include)]


def _task(row: Any) -> Task:
    with _as_expected("a task"):
        versions = row.get("predictions_model_versions") or ""
        names = frozenset(name.strip() for name in versions.split(",") if name.strip())
        score = row.get("predictions_score")
        data = row.get("data") or {}
        unreadable = "" if isinstance(data, Mapping) else f"its data is {json_name(data)} and no object"
        return Task(
            int(row["id"]), {} if unreadable else dict(data), names, int(row.get("total_annotations") or 0),
            None if score is None else float(score), unreadable,
        )  # fmt: skip


def _prediction(row: Any) -> StoredPrediction:
    with _as_expected("a prediction"):
        return read_prediction(row)


@contextmanager
def _as_expected(subject: str) -> Iterator[None]:
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise unexpected_answer(subject, error) from error
