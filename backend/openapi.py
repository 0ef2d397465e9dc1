"""The routes described in OpenAPI 3.1, which GET /openapi.json serves. Data only; a test compares it with the app."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

_Json = dict[str, Any]
_PROJECT = r"^[1-9][0-9]{0,17}(\.[0-9]{1,20})?$"
_HTML, _FORM = "text/html; charset=utf-8", "application/x-www-form-urlencoded"
_SIGN_IN: list[_Json] = [{"basic": []}]


def document() -> _Json:
    """The whole description."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Zeromask",
            "version": version("zeromask"),
            "summary": "Pre-annotation backend of Label Studio",
            "description": "What Label Studio calls, and a few routes for people and monitors. Every error is "
            "`{status, detail}`; the sentence also stands in the status line. With ZEROMASK_USER set, every route but "
            "/health needs basic auth, and /webhook takes the header X-Zeromask-Secret in its place.",
        },
        "security": _SIGN_IN,
        "paths": _paths(),
        "components": {
            "securitySchemes": {
                "basic": {"type": "http", "scheme": "basic"},
                "webhookSecret": {"type": "apiKey", "in": "header", "name": "X-Zeromask-Secret"},
            },
            "schemas": _schemas(),
            "responses": {name: _error(meaning) for name, meaning in _ERRORS.items()},
        },
    }


_ERRORS = {
    "BadRequest": "The body, the labeling config or the host cannot be read; the sentence names the field.",
    "Unauthorized": "User or password is missing or wrong.",
    "TooLarge": "The body is larger than the route takes.",
    "Misdirected": "The host is not one of this backend's; see ZEROMASK_ALLOWED_HOSTS.",
    "TooMany": "Too many wrong guesses from this address.",
    "Missing": "There is nothing of that number.",
    "Unexpected": "Something went wrong; the log has details under the request id in the sentence.",
    "Away": "Redis does not answer or has no room, or too many large bodies are being read; ask again.",
}
_COMMON = {"400": "BadRequest", "401": "Unauthorized", "413": "TooLarge", "421": "Misdirected", "429": "TooMany",
           "500": "Unexpected", "503": "Away"}  # fmt: skip


def _paths() -> _Json:
    health = _route("Whether it answers, and the state of Redis and the workers", {"200": "Health"})
    named: _Json = {"parameters": [{"name": "project", "in": "query", "required": False,
                                    "schema": {"type": "string", "pattern": _PROJECT}}]}  # fmt: skip
    return {
        "/": {"get": {**health, "operationId": "root"}},
        "/health": {"get": {**health, "operationId": "health", "security": []}},
        "/setup": {"post": _route("The version that predictions of a project will carry", {"200": "Version"}, "Setup")},
        "/predict": {
            "post": _route(
                "Request masks of tasks; workers store them in Label Studio", {"200": "Accepted"}, "Predict"
            )
        },
        "/webhook": {
            "post": {
                **_route("Something happened in a project", {"200": "Hinted", "201": "Hinted"}, "Webhook"),
                "security": [{"webhookSecret": []}, *_SIGN_IN],
            }
        },
        "/versions": {
            "get": {**_route("Versions known of a project, or of all", {"200": "Versions"}), **named},
            "post": _route("Versions known of a project, or of all", {"200": "Versions"}, "AboutProject"),
        },
        "/train": {"post": _route("Learn from the project's corrections now", {"201": "Hinted"}, "Train")},
        "/is_training": {"get": {**_route("Whether a project is being learned from", {"200": "Training"}), **named}},
        "/metrics": {"get": _plain("Counters and queues for Prometheus", "text/plain", "string")},
        "/openapi.json": {"get": _plain("This description", "application/json", "object")},
        **_status_paths(),
    }


def _status_paths() -> _Json:
    """The status page, for browsers. Its form needs the cookie and the token that the page brings."""
    number: _Json = {"type": "string", "pattern": "^[1-9][0-9]{0,5}$"}
    identifier: _Json = {"type": "string", "pattern": "^[1-9][0-9]{0,17}$"}
    project = {"name": "id", "in": "query", "required": True, "schema": identifier}
    page = {"name": "page", "in": "query", "required": False, "schema": number}
    have = {"name": "have", "in": "query", "required": False, "schema": {"type": "string"}}
    one, every = _plain("The page of a project", _HTML, "string"), _plain("The page of all projects", _HTML, "string")
    update = _plain("What changed of a page, for its script", "application/json", "object")
    fields = {name: {"type": "string"} for name in ("token", "project", "action")}
    form = {"required": True, "content": {_FORM: {"schema": {**_object(list(fields), **fields)}}}}
    done = {"description": "Done; the page of the project says what"}
    away = {"400": _told("No page has this number"), "503": _told("Redis does not answer; the page says so")}
    unknown = {"404": _told("The queue never had a task of the project")}
    problems = {
        "400": _told("No form, or no button sends it"), "403": _told("Not sent from a page of this backend"),
        "409": _told("There is no such version, or nothing would serve it"), "503": away["503"],
    }  # fmt: skip
    missing = {"404": {"$ref": "#/components/responses/Missing"}}
    return {
        "/status": {"get": {**every, "parameters": [page], "responses": {**every["responses"], **away}}},
        "/status/project": {
            "get": {**one, "parameters": [project], "responses": {**one["responses"], **away, **unknown}},
            "post": {"summary": "Press a button of the page", "requestBody": form,
                     "responses": {**_errors(), "303": done, **problems}},
        },
        "/status/update": {
            "get": {**update, "parameters": [page, {**project, "required": False}, have],
                    "responses": {**update["responses"], **missing}},
        },
        "/status.css": {"get": _plain("Style of the pages", "text/css; charset=utf-8", "string")},
        "/status.js": {"get": _plain("Script of the pages", "text/javascript; charset=utf-8", "string")},
    }  # fmt: skip


def _told(meaning: str) -> _Json:
    return {"description": meaning, "content": {_HTML: {"schema": {"type": "string"}},
                                                **_content("Error")}}  # fmt: skip


def _route(summary: str, answers: dict[str, str], body: str = "") -> _Json:
    successes = {status: {"description": summary, "content": _content(name)} for status, name in answers.items()}
    request = {"requestBody": {"required": True, "content": _content(body)}} if body else {}
    return {"summary": summary, **request, "responses": {**successes, **_errors()}}


def _plain(summary: str, media: str, kind: str) -> _Json:
    success = {"description": summary, "content": {media: {"schema": {"type": kind}}}}
    return {"summary": summary, "responses": {"200": success, **_errors()}}


def _errors() -> _Json:
    return {status: {"$ref": f"#/components/responses/{name}"} for status, name in _COMMON.items()}


def _error(meaning: str) -> _Json:
    return {"description": meaning, "content": _content("Error")}


def _content(schema: str) -> _Json:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}


def _object(required: list[str], **properties: _Json) -> _Json:
    return {"type": "object", "required": required, "properties": properties}


def _schemas() -> _Json:
    text: _Json = {"type": "string"}
    identifier: _Json = {"type": "integer", "minimum": 1, "maximum": 2**63 - 1}
    project: _Json = {"description": "An id, or Label Studio's `<id>.<created at>`",
                      "anyOf": [{"type": "string", "pattern": _PROJECT}, identifier]}  # fmt: skip
    project_object: _Json = {"anyOf": [*project["anyOf"], _object(["id"], id=project)]}
    whole: _Json = {"type": "integer", "minimum": 0}
    prediction = {
        **_object(["result", "score", "model_version"], score={"type": "number"}, model_version=text,
                  result={"type": "array", "items": {"type": "object"}},
                  reason={**text, "description": "Why the result is empty"}),
        "description": "The answer to a click, or to Label Studio's test request",
    }  # fmt: skip
    nothing: _Json = {**text, "description": "Why there are no masks"}
    click: _Json = {"description": "Not null where somebody clicked in an image"}
    return {
        "Error": _object(["status", "detail"], status={"type": "integer"}, detail=text),
        "Health": _object(
            ["status", "model_class", "redis", "workers", "workers_in_trouble", "tasks_waiting_for_redis", "contract"],
            status={"const": "UP"},
            model_class=text,
            redis={"type": "boolean"},
            workers=whole,
            workers_in_trouble=whole,
            tasks_waiting_for_redis=whole,
            contract={**whole, "description": "Number of what its jobs and records in Redis mean"},
        ),
        "Setup": _object(["project", "schema"], project=project, schema={**text, "description": "Labeling config"}),
        "Version": _object(
            ["model_version"],
            model_version=text,
            remarks={"description": "What of the labeling config is not served", "type": "array", "items": text},
        ),
        "Predict": _object(
            ["project", "label_config", "tasks"],
            project=project,
            label_config=text,
            tasks={"type": "array", "items": _object(["id"], id=identifier), "maxItems": 1_000_000},
            params={"type": ["object", "null"], "properties": {"context": click}},
        ),
        "Accepted": _object(
            ["results", "model_version"],
            results={"type": "array", "items": {"anyOf": [
                {"type": "array", "maxItems": 1, "items": _object(["reason"], reason=nothing), "description": "Nothing "
                 "that Label Studio stores: accepted, or why its test request got no masks"},
                prediction,
            ]}},
            model_version=text,
        ),
        "Webhook": _object(
            ["action", "project"],
            action={**text, "pattern": "^[A-Za-z0-9_.:-]{1,64}$"},
            project=project_object,
            tasks={"description": "Tasks, or their ids; anything else here is skipped"},
        ),
        "Hinted": _object(
            ["status", "refresh"],
            status={"const": "ok"},
            refresh={"type": "boolean"},
            job=text,
            detail={**text, "description": "What happens next, after a request to learn"},
        ),
        "AboutProject": {
            "type": "object",
            "properties": {"project": {"anyOf": [{"type": "null"}, *project_object["anyOf"]]}},
        },
        "Train": _object(["project"], project=project_object),
        "Versions": _object(["versions"], versions={"type": "array", "items": text}),
        "Training": _object(["is_training"], is_training={"type": "boolean"}),
    }
