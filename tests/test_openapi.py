"""The description of the routes is true: it has every route, and requests generated from it are answered as it says."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.config import GenerationConfig, ProjectConfig, ProjectsConfig, SchemathesisConfig
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

from backend.app import ROUTES
from backend.openapi import document
from backend.server.connections import ConnectionLimits
from backend.views import Views
from plugin_config.settings import Settings
from tests.served_backend import PASSWORD, USER, Backend, backend, signing_in

_CHECKS = [
    not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance,
    negative_data_rejection,
]  # fmt: skip
_GENERATION = GenerationConfig(
    modes=[GenerationMode.POSITIVE, GenerationMode.NEGATIVE], deterministic=True, with_security_parameters=False
)
_CONFIG = SchemathesisConfig(seed=1, projects=ProjectsConfig(default=ProjectConfig(generation=_GENERATION)))
_SCHEMA = schemathesis.openapi.from_dict(document(), config=_CONFIG)


@pytest.fixture(scope="module")
def running(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    folder = tmp_path_factory.mktemp("openapi")
    options = Settings(redis_url=redis_url, model="builtin", predict_wait_s=0, max_body_mb=1, state_dir=str(folder))
    with backend(signing_in(options), limits=ConnectionLimits()) as running:
        yield running


@_SCHEMA.parametrize()
@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_whatever_is_sent_is_answered_as_described(case: Case[Any], running: Backend) -> None:
    case.call_and_validate(base_url=f"http://127.0.0.1:{running.port}", auth=(USER, PASSWORD), checks=_CHECKS)


def test_every_route_is_described_and_every_described_route_is_there() -> None:
    described = {(path, method) for path, methods in document()["paths"].items() for method in methods}
    there = {
        (path, method)
        for path, name in ROUTES.items()
        for method in ("get", "post", "put", "delete", "patch")
        if hasattr(Views, f"on_{method}_{name}")
    }
    assert described == there
    views = {name.split("_", 2)[2] for name in dir(Views) if name.startswith("on_")}
    assert views == set(ROUTES.values()), "views without a route"


def test_it_is_served(running: Backend) -> None:
    signed = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    assert running.ask("GET", "/openapi.json", Authorization=signed).content == document()
    assert running.ask("GET", "/openapi.json").status == 401
