"""The Label Studio client against a real HTTP server: tokens, refusals, outages, pages."""

from __future__ import annotations

import base64
import json
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from plugin_config.errors import (
    AnswerMalformed,
    LabelStudioError,
    LabelStudioFailing,
    LabelStudioUnreachable,
    ProjectGone,
)
from plugin_config.label_studio.annotations import AnnotatedTask, Annotation
from plugin_config.label_studio.client import LabelStudio
from tests.http_server import Answer, Asked, Server, as_json, serving

LEGACY = "0123456789abcdef0123456789abcdef01234567"
PERSONAL = ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in (b'{"a":1}', b'{"b":2}', b"sig"))
PROJECT = {"id": 1, "title": "one", "label_config": "<View/>", "model_version": None}
HTML = Answer(200, b"<!doctype html><title>Log in</title>", {"Content-Type": "text/html"})


def label_studio_like(asked: Asked) -> Answer:
    """Hands out access-1, access-2, ... for the personal token, and knows one project."""
    if asked.path == "/api/token/refresh/":
        return as_json({"access": "access-1"})
    return as_json(PROJECT)


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(label_studio_like) as found:
        yield found


@contextmanager
def client(server: Server, token: str = LEGACY, *, timeout_s: float = 60.0) -> Iterator[LabelStudio]:
    with LabelStudio(server.url, token, timeout_s=timeout_s) as found:
        yield found


def tokens(server: Server) -> list[str]:
    return [asked.headers.get("Authorization", "") for asked in server.asked if "refresh" not in asked.path]


def test_legacy_tokens_are_sent_as_they_are(server: Server) -> None:
    with client(server) as label_studio:
        assert label_studio.project(1).title == "one"
    assert tokens(server) == [f"Token {LEGACY}"]
    assert server.paths() == ["GET /api/projects/1/"]


def test_personal_tokens_buy_one_access_token_for_many_requests(server: Server) -> None:
    with client(server, PERSONAL) as label_studio:
        for _ in range(3):
            label_studio.project(1)
    assert server.paths() == ["POST /api/token/refresh/", *["GET /api/projects/1/"] * 3]
    assert json.loads(server.asked[0].body) == {"refresh": PERSONAL}
    assert tokens(server) == ["Bearer access-1"] * 3


class Expiring:
    """A Label Studio whose access tokens are worth `uses` requests."""

    def __init__(self, uses: int) -> None:
        self.uses, self.sold, self.left = uses, 0, 0

    def __call__(self, asked: Asked) -> Answer:
        if "refresh" in asked.path:
            self.sold, self.left = self.sold + 1, self.uses
            return as_json({"access": f"access-{self.sold}"})
        if asked.headers["Authorization"] != f"Bearer access-{self.sold}" or self.left == 0:
            return as_json({"detail": "expired"}, 401)
        self.left -= 1
        return as_json(PROJECT)


def test_a_refused_access_token_is_traded_again_and_the_request_repeated(server: Server) -> None:
    server.answer = Expiring(uses=2)
    with client(server, PERSONAL) as label_studio:
        for _ in range(3):
            assert label_studio.project(1).id == 1
    assert tokens(server) == ["Bearer access-1"] * 3 + ["Bearer access-2"]


def test_an_old_access_token_is_traded_again_before_it_is_refused(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answer = Expiring(uses=100)
    with client(server, PERSONAL) as label_studio:
        label_studio.project(1)
        now = time.monotonic()
        monkeypatch.setattr("plugin_config.label_studio.auth.time.monotonic", lambda: now + 299)
        label_studio.project(1)
    assert tokens(server) == ["Bearer access-1", "Bearer access-2"]


def test_streams_are_signed_too_and_not_read_ahead(server: Server) -> None:
    server.answer = lambda asked: (
        as_json({"access": "access-1"}) if "refresh" in asked.path
        else Answer(200, b"x" * 1000, {"Content-Length": "2000"}, pieces=1, pause_s=30)
    )  # fmt: skip
    with client(server, PERSONAL) as label_studio:
        response = label_studio.stream(label_studio.address("/data/a.png"), task=3, project=1)
        assert response.status_code == 200
        assert not response.is_stream_consumed
        response.close()
    assert tokens(server) == ["Bearer access-1"]


@pytest.mark.parametrize("status", [400, 401, 403])
def test_a_refused_personal_token_names_the_remedy(status: int, server: Server) -> None:
    server.answer = lambda asked: as_json({"detail": "Token is invalid"}, status)
    with client(server, PERSONAL) as label_studio, pytest.raises(LabelStudioError) as caught:
        label_studio.project(1)
    assert type(caught.value) is LabelStudioError
    assert caught.value.status == status
    assert "LABEL_STUDIO_API_KEY" in caught.value.remedy
    assert PERSONAL not in str(caught.value)


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_a_restart_while_the_token_is_bought_is_an_outage_and_no_refusal(status: int, server: Server) -> None:
    server.answer = lambda asked: Answer(status)
    with client(server, PERSONAL) as label_studio, pytest.raises(LabelStudioFailing, match=f"HTTP {status}"):
        label_studio.project(1)


@pytest.mark.parametrize("answer", [HTML, as_json({"token": "x"}), as_json([1]), Answer(200)],
                         ids=["html", "no access", "list", "empty"])  # fmt: skip
def test_nonsense_for_a_personal_token_is_told(answer: Answer, server: Server) -> None:
    server.answer = lambda asked: answer
    with client(server, PERSONAL) as label_studio, pytest.raises(LabelStudioError, match="LABEL_STUDIO_URL"):
        label_studio.project(1)


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_server_errors_mean_try_again(status: int, server: Server) -> None:
    server.answer = lambda asked: Answer(status, b"<h1>oops</h1>")
    with client(server) as label_studio, pytest.raises(LabelStudioFailing, match=f"answered HTTP {status}") as caught:
        label_studio.project(1)
    assert caught.value.status == status
    assert not isinstance(caught.value, LabelStudioUnreachable), "it answered"
    assert server.url in str(caught.value)


def test_no_answer_means_try_again() -> None:
    with socket.socket() as held:  # bound and not listening
        held.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{held.getsockname()[1]}"
        with LabelStudio(url, LEGACY, timeout_s=0.5) as label_studio:
            with pytest.raises(LabelStudioUnreachable, match="ConnectError"):
                label_studio.project(1)
            with pytest.raises(LabelStudioUnreachable, match="ConnectError"):
                label_studio.stream(label_studio.address("/data/a.png"), task=3, project=1)


def test_silence_means_try_again(server: Server) -> None:
    server.answer = lambda asked: Answer(raw=b"H" * 9, pause_s=30)
    with client(server, timeout_s=0.5) as label_studio, pytest.raises(LabelStudioUnreachable, match="ReadTimeout"):
        label_studio.project(1)


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        pytest.param(400, {"validation_errors": {"title": ["too long"]}}, "too long", id="validation"),
        pytest.param(401, {"detail": "Invalid token."}, "Create a personal access token", id="token"),
        pytest.param(403, {"detail": "No permission."}, "Use the token of a user who may do this", id="permission"),
        pytest.param(404, {"detail": "No Project.", "status_code": 404, "version": "1"}, "No Project.", id="gone"),
        pytest.param(400, ["what"], "HTTP 400", id="list"),
        pytest.param(413, None, "HTTP 413", id="no json"),
    ],
)
def test_refusals_name_status_and_detail_but_no_token(status: int, body: Any, message: str, server: Server) -> None:
    server.answer = lambda asked: Answer(status, b"<html>") if body is None else as_json(body, status)
    with client(server) as label_studio, pytest.raises(LabelStudioError) as caught:
        label_studio.project(1)
    assert type(caught.value) is (ProjectGone if status == 404 else LabelStudioError)
    assert caught.value.status == status
    assert message in str(caught.value)
    assert f"HTTP {status}" in str(caught.value)
    assert LEGACY not in str(caught.value)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(Answer(404, b"404 page not found\n", {"Content-Type": "text/plain"}), id="text"),
        pytest.param(Answer(404), id="empty"),
        pytest.param(as_json({"detail": "Not found."}, 404), id="another API"),
        pytest.param(as_json(["what"], 404), id="list"),
    ],
)
def test_a_404_of_a_proxy_is_an_outage_and_says_of_nothing_that_it_is_gone(answer: Answer, server: Server) -> None:
    server.answer = lambda asked: answer
    with client(server) as label_studio:
        for ask in (label_studio.project, label_studio.delete_prediction, lambda task: label_studio.tasks(9, [task])):
            with pytest.raises(LabelStudioFailing, match=r"answered HTTP 404.*LABEL_STUDIO_URL") as caught:
                ask(1)
            assert caught.value.status == 0


def test_a_page_in_place_of_json_is_told(server: Server) -> None:
    server.answer = lambda asked: HTML
    with client(server) as label_studio, pytest.raises(LabelStudioError, match="login page"):
        label_studio.project(1)


def test_a_redirect_is_told_with_its_aim(server: Server) -> None:
    server.answer = lambda asked: Answer(301, headers={"Location": "https://elsewhere.example/"})
    with client(server) as label_studio, pytest.raises(LabelStudioError, match=r"https://elsewhere\.example/"):
        label_studio.project(1)


@pytest.mark.parametrize("url", ["", "localhost:8080", "ftp://host", "http://", "http://[::1", "http://host:port"])
def test_an_address_that_is_none_is_told(url: str) -> None:
    with pytest.raises(LabelStudioError, match="LABEL_STUDIO_URL"):
        LabelStudio(url, LEGACY)


@pytest.mark.parametrize("token", ["abc\u201d", "abc\ndef", "ab c", "\u200babc"])
def test_a_token_that_is_none_is_told_and_not_repeated(token: str) -> None:
    with pytest.raises(LabelStudioError, match="LABEL_STUDIO_API_KEY") as caught:
        LabelStudio("http://localhost:8080", token)
    assert token not in str(caught.value)


NO_PAGE = {"status_code": 404, "version": "1.23.2", "detail": "Invalid page."}


def page_of(ids: Sequence[int], asked: Asked, *, most: int = 1000) -> Answer:
    """The page of these tasks that was asked for, of `most` tasks; as Label Studio (1.23.2) cuts and refuses pages."""
    query = parse_qs(urlsplit(asked.path).query)
    page, size = int(query["page"][0]), min(int(query["page_size"][0]), most)
    wanted = json.loads(query.get("query", ["{}"])[0])
    for one in wanted.get("filters", {}).get("items", []):
        later = one if one["filter"] == "filter:tasks:id" else one.get("child_filter")
        ids = [task for task in ids if not later or task > later["value"]]
    if "selectedItems" in wanted:
        ids = [task for task in ids if task in wanted["selectedItems"]["included"]]
    if page > 1 and (page - 1) * size >= len(ids):
        return as_json(NO_PAGE, 404)
    row = {"predictions_model_versions": "a, b", "total_annotations": 1, "updated_at": "", "annotations_ids": "1"}
    rows = [{**row, "id": task} for task in ids]
    return as_json({"tasks": rows[(page - 1) * size : page * size], "total": len(rows)})


@pytest.mark.parametrize(
    ("base", "url", "own"),
    [
        pytest.param("http://ls.example.com", "/data/upload/a.png", True, id="relative"),
        pytest.param("http://LS.example.com:80", "http://ls.example.com/a.png", True, id="case and default port"),
        pytest.param("http://ls.example.com/label-studio", "http://ls.example.com/a.png", True, id="below a path"),
        pytest.param("http://ls.example.com", "http://ls.example.com.evil.example/a.png", False, id="longer host"),
        pytest.param("http://ls.example.com", "http://ls.example.com:8080/a.png", False, id="another port"),
        pytest.param("https://ls.example.com", "http://ls.example.com/a.png", False, id="another scheme"),
    ],
)
def test_only_its_own_addresses_are_its_own(base: str, url: str, own: bool) -> None:
    with LabelStudio(base, LEGACY) as label_studio:
        assert label_studio.is_own(label_studio.address(url)) is own


def test_below_a_path_apis_are_found_and_task_addresses_are_not_prefixed_twice(server: Server) -> None:
    server.answer = lambda asked: as_json(PROJECT)
    with LabelStudio(f"{server.url}/label-studio", LEGACY) as label_studio:
        label_studio.project(1)
        for url in ("/label-studio/data/upload/a.png", label_studio.presigned_path("s3://bucket/a.png", task=3)):
            label_studio.stream(label_studio.address(url), task=3, project=1).close()
    paths = server.paths()
    assert paths[:2] == ["GET /label-studio/api/projects/1/", "GET /label-studio/data/upload/a.png"]
    assert paths[2].startswith("GET /label-studio/tasks/3/presign/?fileuri=")


@pytest.mark.parametrize(("total", "pages"), [(0, 1), (1, 1), (500, 1), (501, 2), (1499, 3)])
def test_all_tasks_are_read_page_by_page(total: int, pages: int, server: Server) -> None:
    server.answer = lambda asked: page_of(range(1, total + 1), asked)
    with client(server) as label_studio:
        found = list(label_studio.all_tasks(9))
    assert [task.id for task in found] == list(range(1, total + 1))
    assert len(server.asked) == pages
    assert all(task.versions == {"a", "b"} for task in found)


@pytest.mark.parametrize("after", [0, 1, 500, 700, 1200, 5000])
def test_tasks_are_read_from_where_an_earlier_reading_ended(after: int, server: Server) -> None:
    server.answer = lambda asked: page_of(range(1, 1201), asked)
    with client(server) as label_studio:
        assert [task.id for task in label_studio.all_tasks(9, after=after)] == list(range(after + 1, 1201))


@pytest.mark.parametrize("deleted", [{7}, {501}, {3, 600}, set(range(1, 1200))], ids=["read", "last", "both", "most"])
@pytest.mark.parametrize("total", [501, 1200])
def test_tasks_that_are_deleted_between_two_pages_neither_end_the_reading_nor_hide_others(
    total: int, deleted: set[int], server: Server
) -> None:
    """They move the others to earlier pages, and a page past the end is refused with HTTP 404."""
    left = list(range(1, total + 1))

    def answer(asked: Asked) -> Answer:
        page = page_of(left, asked)
        left[:] = [task for task in left if task not in deleted]
        return page

    server.answer = answer
    with client(server) as label_studio:
        found = [task.id for task in label_studio.all_tasks(9)]
        assert found == sorted({*range(1, 501), *left})
        left[:] = range(1, total + 1)
        assert [task.id for task in label_studio.annotated_tasks(9, skipped=True)] == found


@pytest.mark.parametrize("most", [1, 2, 100])
def test_tasks_are_all_found_where_label_studio_makes_its_pages_shorter(most: int, server: Server) -> None:
    """As its setting TASK_API_PAGE_SIZE_MAX does, without a word."""
    server.answer = lambda asked: page_of(range(1, 6), asked, most=most)
    with client(server) as label_studio:
        assert [task.id for task in label_studio.tasks(9, [5, 1, 2, 99, 4])] == [1, 2, 4, 5]
        assert len(server.asked) == -(-4 // most)
        assert [task.id for task in label_studio.all_tasks(9)] == [1, 2, 3, 4, 5]


def test_pages_that_bring_nothing_new_end_the_reading(server: Server) -> None:
    """As of something that does not know the filter."""
    server.answer = lambda asked: as_json({"tasks": [{"id": 1}], "total": 900})
    with client(server) as label_studio:
        assert [task.id for task in label_studio.all_tasks(9)] == [1]


def test_a_prediction_that_somebody_else_has_deleted_is_deleted(server: Server) -> None:
    refusal = {"status_code": 404, "version": "1.23.2", "detail": "No Prediction matches the given query."}
    server.answer = lambda asked: as_json(refusal, 404)
    with client(server) as label_studio:
        label_studio.delete_prediction(7)
        server.answer = lambda asked: as_json({**refusal, "status_code": 403}, 403)
        with pytest.raises(LabelStudioError, match="HTTP 403"):
            label_studio.delete_prediction(7)


@pytest.mark.parametrize("ask", ["predictions", "annotations", "tasks"])
def test_only_a_project_that_was_asked_for_is_gone(ask: str, server: Server) -> None:
    """A task, an annotation or a page may be missing, too."""
    server.answer = lambda asked: as_json({"status_code": 404, "version": "1.23.2", "detail": "Not found."}, 404)
    with client(server) as label_studio:
        with pytest.raises(LabelStudioError) as caught:
            label_studio.tasks(9, [1]) if ask == "tasks" else getattr(label_studio, ask)(1)
        assert (type(caught.value), caught.value.status) == (LabelStudioError, 404)
        with pytest.raises(ProjectGone):
            label_studio.project(9)


def test_only_the_tasks_asked_for_are_returned_and_none_are_asked_for_in_vain(server: Server) -> None:
    server.answer = lambda asked: as_json({"tasks": [{"id": 2}, {"id": 3}, {"id": 4, "data": None}], "total": 3})
    with client(server) as label_studio:
        assert label_studio.tasks(9, []) == []
        assert [task.id for task in label_studio.tasks(9, [2, 4])] == [2, 4]
    assert len(server.asked) == 1


@pytest.mark.parametrize("ids", ["1,12", [12, 1]], ids=["as SQLite joins them", "as Postgres lists them"])
def test_annotated_tasks_are_asked_for_as_such(ids: Any, server: Server) -> None:
    row = {"id": 3, "annotations_ids": ids, "updated_at": "2026-01-01T00:00:00Z"}
    server.answer = lambda asked: as_json({"tasks": [row], "total": 1})
    with client(server) as label_studio:
        assert list(label_studio.annotated_tasks(9)) == [AnnotatedTask(3, (1, 12), "2026-01-01T00:00:00Z")]
    (asked,) = server.asked
    query = json.loads(parse_qs(urlsplit(asked.path).query)["query"][0])
    (item,) = query["filters"]["items"]
    assert (item["filter"], item["operator"], item["value"]) == ("filter:tasks:total_annotations", "greater", 0)


def test_annotations_are_read_with_what_tells_their_worth(server: Server) -> None:
    full = {"id": 5, "task": 3, "result": [{"id": "a"}], "was_cancelled": True, "ground_truth": True,
            "parent_prediction": 7, "completed_by": {"id": 2}, "updated_at": "2026-01-01T00:00:00Z"}  # fmt: skip
    plain = {"id": 6, "task": 3, "result": None, "completed_by": 4}
    server.answer = lambda asked: as_json([full, plain])
    with client(server) as label_studio:
        first, second = label_studio.annotations(3)
        assert label_studio.parent_predictions(3) == {7}
    assert first == Annotation(5, 3, [{"id": "a"}], True, True, 7, 2, "2026-01-01T00:00:00Z")
    assert second == Annotation(6, 3, [], False, False, None, 4, "", malformed="its result is null")


@pytest.mark.parametrize(
    ("change", "imported"),
    [
        pytest.param({}, True, id="nobody submitted it"),
        pytest.param({"updated_by": 1}, False, id="somebody did"),
        pytest.param({"updated_by": 1, "import_id": 5}, False, id="imported, and submitted since"),
        pytest.param({"completed_by": None}, False, id="by a user who is deleted"),
        pytest.param({"completed_by": None, "import_id": 5}, True, id="imported by a user who is deleted"),
    ],
)
def test_imported_annotations_are_told_by_who_submitted_them(
    change: dict[str, Any], imported: bool, server: Server
) -> None:
    row = {"id": 5, "task": 3, "result": [], "completed_by": 1, "updated_by": None, "import_id": None, **change}
    server.answer = lambda asked: as_json([row])
    with client(server) as label_studio:
        assert label_studio.annotations(3)[0].imported is imported


def test_null_and_malformed_fields_of_an_annotation_are_not_known(server: Server) -> None:
    odd: dict[str, Any] = {
        "id": 5, "task": None, "result": {"0": 1}, "was_cancelled": None, "ground_truth": None, "updated_at": None,
        "parent_prediction": "x", "completed_by": {"email": "a@example.com"}, "updated_by": [],
    }  # fmt: skip
    rows = [odd, odd | {"result": "[]", "completed_by": "x"}, odd | {"result": 7, "completed_by": True}]
    server.answer = lambda asked: as_json(rows)
    with client(server) as label_studio:
        first, second, third = label_studio.annotations(3)
    assert first == Annotation(5, 3, [], False, False, None, None, "", malformed="its result is an object")
    assert (second.malformed, third.malformed) == ("its result is a text", "its result is a number")


@pytest.mark.parametrize("stored", [None, {"a": 1}, "x", 7, [None, "x", 7, [1]]], ids=str)
def test_a_prediction_whose_result_is_no_list_has_no_regions(stored: Any, server: Server) -> None:
    row = {"id": 1, "task": 3, "result": stored, "model_version": None, "score": None}
    server.answer = lambda asked: as_json([row, row | {"id": 2, "result": [{"id": "a"}, None]}])
    with client(server) as label_studio:
        first, second = label_studio.predictions(3)
    assert (first.result, second.result) == ([], [{"id": "a"}])


@pytest.mark.parametrize("answer", [None, 7, "x", {}, {"tasks": None}, {"tasks": 7, "total": 1}, [1]], ids=str)
def test_strange_answers_are_told(answer: Any, server: Server) -> None:
    server.answer = lambda asked: as_json(answer)
    with client(server) as label_studio:
        for ask in (lambda: label_studio.tasks(9, [1]), lambda: list(label_studio.annotated_tasks(9))):
            with pytest.raises(AnswerMalformed):
                ask()


@pytest.mark.parametrize("answer", [7, "x", {"detail": 1}, [None], [7], [{"id": 1}]], ids=str)
def test_strange_predictions_and_annotations_are_told(answer: Any, server: Server) -> None:
    server.answer = lambda asked: as_json(answer)
    with client(server) as label_studio:
        for ask in (label_studio.predictions, label_studio.annotations):
            with pytest.raises(AnswerMalformed, match="not as expected"):
                ask(3)


def test_a_task_whose_data_is_a_list_is_that_tasks_trouble(server: Server) -> None:
    server.answer = lambda asked: as_json({"tasks": [{"id": 2, "data": ["a.png"]}, {"id": 3, "data": {}}], "total": 2})
    with client(server) as label_studio:
        odd, plain = label_studio.tasks(9, [2, 3])
    assert (odd.data, plain.unreadable) == ({}, "")
    assert "its data is a list" in odd.unreadable


@pytest.mark.parametrize("row", [{}, {"id": 1}, {"id": "x", "task": 1, "result": []}, 7])
def test_strange_annotations_are_told(row: Any, server: Server) -> None:
    server.answer = lambda asked: as_json([row])
    with client(server) as label_studio, pytest.raises(LabelStudioError, match="not as expected"):
        label_studio.annotations(3)
