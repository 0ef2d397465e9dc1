"""The whole way with sign-in: a real Label Studio signs in to the backend, and its webhooks carry the secret."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from redis import Redis

from plugin_config.cli.connect import connect_project
from plugin_config.doctor.installation import Installation
from plugin_config.doctor.queue_checks import check_backend
from plugin_config.label_studio.webhooks import SECRET_HEADER, webhooks
from plugin_config.local.services import start_services
from plugin_config.local.supervisor import Supervisor, free_port
from plugin_config.queue.hints import ProjectHints
from plugin_config.queue.pending import PendingTasks
from plugin_config.settings import Settings
from tests.house import CONFIG, TOKEN, House, picture, retrieve, tasks, upload, wait_predicted, wait_until

USER, PASSWORD, SECRET = "label-studio", "a password of models", "a secret of webhooks"
REFUSED = (401, 429)  # the latter after too many guesses
REFUSED_HOOK = "POST /webhook 401 "


@pytest.fixture(scope="module", name="guarded")
def guarded_fixture(house: House, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A backend and a worker with a sign-in, beside the Label Studio of the other tests."""
    state = tmp_path_factory.mktemp("guarded")
    settings = Settings(
        model="builtin", state_dir=str(state), port=free_port(), label_studio_url=house.label_studio.url,
        label_studio_api_key=TOKEN, lease_s=4.0, drain_tasks=4, reconcile_s=1.0, threads=1, user=USER,
        password=PASSWORD, webhook_secret=SECRET,
    )  # fmt: skip
    with Supervisor(state) as supervisor:
        services = start_services(supervisor, settings, learners=0)
        with Redis.from_url(services.redis_url) as redis:
            pending = PendingTasks(redis, drain_tasks=4, lease_s=4.0)
            yield replace(
                house, services=services, supervisor=supervisor, pending=pending, redis=redis, settings=settings
            )


def make_signed_in_project(house: House) -> int:
    """A project of two pictures, connected with the sign-in as a person does it."""
    body = {"title": "house signed in", "label_config": CONFIG.format(more="")}
    project = int(house.label_studio.request("POST", "/api/projects/", json=body)["id"])
    upload(house, project, [picture(top=20), picture(top=30)])
    model = {"project": project, "url": house.services.backend_url, "title": "Zeromask", "auth_method": "BASIC_AUTH",
             "basic_auth_user": USER, "basic_auth_pass": PASSWORD}  # fmt: skip
    house.label_studio.request("POST", "/api/ml/", json=model)
    return project


def annotate(house: House, project: int) -> None:
    house.label_studio.request("POST", f"/api/tasks/{tasks(house, project)[0].id}/annotations/", json={"result": []})


def test_a_signed_in_backend_serves_label_studio_and_hears_its_webhooks(guarded: House) -> None:
    hints = ProjectHints(guarded.redis)
    project = make_signed_in_project(guarded)
    log = guarded.supervisor.log_path("backend")
    before = log.read_text(errors="replace").count(REFUSED_HOOK)
    annotate(guarded, project)
    wait_until(lambda: log.read_text(errors="replace").count(REFUSED_HOOK) > before, told="the refusal of the webhook")
    assert hints.last_webhook(project) is None, "a webhook without the secret is not let in"
    retrieve(guarded, project)
    wait_predicted(guarded, project)
    wait_until(lambda: all(hook.carries(SECRET_HEADER, SECRET) for hook in webhooks(guarded.label_studio, project)),
               told="the secret in the webhook")  # fmt: skip
    annotate(guarded, project)
    # Of the annotation, or of the version that is shown to annotators meanwhile.
    wait_until(lambda: hints.last_webhook(project) is not None, told="a webhook")


def test_connecting_gives_label_studio_the_sign_in_and_the_webhook_its_secret(guarded: House) -> None:
    body = {"title": "house connected", "label_config": CONFIG.format(more="")}
    project = int(guarded.label_studio.request("POST", "/api/projects/", json=body)["id"])
    upload(guarded, project, [picture(top=20)])
    told = list(connect_project(guarded.label_studio, guarded.redis, guarded.settings, project))
    assert not [secret for secret in (PASSWORD, SECRET) if secret in "".join(told)]
    (hook,) = webhooks(guarded.label_studio, project)
    assert hook.carries(SECRET_HEADER, SECRET)
    wait_predicted(guarded, project)


@pytest.mark.parametrize(
    ("sign_in", "finding"),
    [
        pytest.param((USER, PASSWORD, SECRET), ("ok", "signed in"), id="the same"),
        pytest.param((USER, "a guess of twelve", SECRET), ("wrong", "another sign-in than these settings"), id="wrong"),
        pytest.param((), ("wrong", "a sign-in, and none is in these settings"), id="none"),
    ],
)
def test_the_doctor_tells_a_backend_of_another_sign_in(
    guarded: House, sign_in: tuple[str, ...], finding: tuple[str, str]
) -> None:
    names = ("ZEROMASK_USER", "ZEROMASK_PASSWORD", "ZEROMASK_WEBHOOK_SECRET")
    environ = {"LABEL_STUDIO_URL": guarded.settings.label_studio_url, "LABEL_STUDIO_API_KEY": TOKEN,
               "ZEROMASK_PORT": str(guarded.settings.port), **dict(zip(names, sign_in, strict=False))}  # fmt: skip
    with Installation(environ) as installation:
        (found,) = check_backend(installation)
    assert (found.state, finding[1] in found.sentence) == (finding[0], True)


@pytest.mark.parametrize("sign_in", [None, (USER, "guess"), ("guess", PASSWORD)], ids=["nobody", "password", "user"])
def test_a_stranger_is_not_let_in(guarded: House, sign_in: tuple[str, str] | None) -> None:
    def ask(method: str, path: str, **options: Any) -> int:
        url = f"{guarded.services.backend_url}{path}"
        return httpx.request(method, url, timeout=60, trust_env=False, **options).status_code

    for path, body in (("/setup", {}), ("/predict", {}), ("/webhook", {"action": "TASKS_CREATED"})):
        assert ask("POST", path, json=body, auth=sign_in) in REFUSED
    wrong = {SECRET_HEADER: "guess"}
    assert ask("POST", "/webhook", json={}, headers=wrong) in REFUSED
    assert ask("GET", "/health") == 200


def test_each_half_holds_what_it_needs_of_the_sign_in(guarded: House) -> None:
    told = {name: psutil.Process(guarded.supervisor.pid(name)).environ() for name in ("backend", "worker", "redis")}
    assert (told["backend"]["ZEROMASK_USER"], told["backend"]["ZEROMASK_PASSWORD"]) == (USER, PASSWORD)
    assert not {USER, PASSWORD} & set(told["worker"].values())
    assert told["worker"]["ZEROMASK_WEBHOOK_SECRET"] == SECRET
    assert not {USER, PASSWORD, SECRET} & set(told["redis"].values())


def test_logs_hold_no_secret(guarded: House) -> None:
    for path in Path(guarded.supervisor.log_path("backend").parent).glob("*.log"):
        text = path.read_text(errors="replace")
        assert not [secret for secret in (PASSWORD, SECRET, TOKEN) if secret in text], path
