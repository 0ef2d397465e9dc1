"""Set-ups with one thing broken in each, on the Label Studio, Redis and backend of the run, and what the doctor says.

The table of docs/guide/doctor.md is made of these rows; `tests/test_doctor_label_studio.py` breaks and asks.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from redis import Redis

from plugin_config.errors import LabelStudioError
from plugin_config.label_studio.client import LabelStudio
from plugin_config.label_studio.webhooks import webhooks
from plugin_config.local.supervisor import Command, answers_http, free_port, module_command
from plugin_config.queue.pending import PendingTasks
from tests.house import CONFIG, REFUSED_HOST, House, make_project, personal_token, tasks, upload
from tests.http_server import Answer, Asked, as_json, serving


@dataclass
class Bench:
    """A set-up to break.

    Attributes:
        house: that runs.
        redis_url: of another, empty Redis, which keeps nothing on disk.
        folder: of the test.
        healthy: a project with nothing wrong.
        environ: the settings of the doctor; a set-up may change them.
        project: to examine; a set-up may name another.
        draw: whether a mask is drawn.
    """

    house: House
    redis_url: str
    folder: Path
    healthy: int
    environ: dict[str, str] = field(default_factory=dict)
    project: int = 0
    draw: bool = False

    def own_project(self, *, count: int = 1, config: str = CONFIG.format(more="")) -> int:
        """A project of this set-up alone, connected."""
        self.project = make_project(self.house, count=count, config=config, name="doctor")
        return self.project


@dataclass(frozen=True)
class SetUp:
    """A set-up.

    Attributes:
        broken: what is broken, for people.
        check: the check that the doctor begins with.
        says: a part of its sentence.
        remedy: a part of its remedy.
        make: breaks it, and mends it afterwards what others need.
    """

    broken: str
    check: str
    says: str
    remedy: str
    make: Callable[[Bench], AbstractContextManager[None]]


SET_UPS: list[SetUp] = []


def _row(broken: str, check: str, says: str, remedy: str) -> Callable[[Callable[[Bench], Iterator[None]]], object]:
    def add(make: Callable[[Bench], Iterator[None]]) -> object:
        SET_UPS.append(SetUp(broken, check, says, remedy, contextmanager(make)))
        return make

    return add


def set_ups_table(rows: Sequence[SetUp]) -> str:
    """The table of the documentation."""
    lines = ["| what is broken | begins with | what it says | what it advises |", "|---|---|---|---|"]
    lines += [f"| {row.broken} | {row.check} | ... {row.says} ... | ... {row.remedy} ... |" for row in rows]
    return "\n".join(lines)


@_row("a setting is no number", "settings", "must be a whole number", "Unset ZEROMASK_PORT")
def _setting(bench: Bench) -> Iterator[None]:
    bench.environ["ZEROMASK_PORT"] = "many"
    yield


@_row("the state folder is none", "state folder", "cannot be written", "Set ZEROMASK_STATE_DIR")
def _state_folder(bench: Bench) -> Iterator[None]:
    (bench.folder / "file").touch()
    bench.environ["ZEROMASK_STATE_DIR"] = str(bench.folder / "file")
    yield


@_row("Label Studio does not run", "label studio", "ConnectError", "Check that it runs")
def _no_label_studio(bench: Bench) -> Iterator[None]:
    bench.environ["LABEL_STUDIO_URL"] = f"http://localhost:{free_port()}"
    yield


@_row("`LABEL_STUDIO_URL` names another program", "label studio", "it is not Label Studio itself",
      "Set LABEL_STUDIO_URL to Label Studio's address")  # fmt: skip
def _another_program(bench: Bench) -> Iterator[None]:
    bench.environ["LABEL_STUDIO_URL"] = bench.house.services.backend_url
    yield


@_row("the token is of nobody", "token", "was refused (HTTP 401)", "Create a personal access token")
def _unknown_token(bench: Bench) -> Iterator[None]:
    bench.environ["LABEL_STUDIO_API_KEY"] = "f" * 40
    yield


@_row("the personal access token is revoked", "token", "has been revoked", "Create a personal access token")
def _revoked_token(bench: Bench) -> Iterator[None]:
    api = bench.house.label_studio
    bench.environ["LABEL_STUDIO_API_KEY"] = token = personal_token(api)
    api.request("POST", "/api/token/blacklist/", json={"refresh": token})
    yield


@_row("legacy tokens are switched off", "token", "was refused (HTTP 401)", "let an owner allow legacy tokens")
def _legacy_tokens_off(bench: Bench) -> Iterator[None]:
    api = bench.house.label_studio
    on = {"api_tokens_enabled": True, "legacy_api_tokens_enabled": True}
    api.request("POST", "/api/jwt/settings", json=on)
    with LabelStudio(api.url, personal_token(api)) as owner:
        owner.request("POST", "/api/jwt/settings", json={**on, "legacy_api_tokens_enabled": False})
        try:
            yield
        finally:
            owner.request("POST", "/api/jwt/settings", json=on)


@_row("Redis does not run", "redis", "does not answer", "Start it, or correct REDIS_URL")
def _no_redis(bench: Bench) -> Iterator[None]:
    bench.environ["REDIS_URL"] = f"unix://{bench.folder}/nobody.sock"
    yield


@_row("Redis deletes keys when it is full", "redis memory", "maxmemory-policy allkeys-lru",
      "Set maxmemory-policy noeviction")  # fmt: skip
def _evicting_redis(bench: Bench) -> Iterator[None]:
    bench.environ["REDIS_URL"] = bench.redis_url
    with Redis.from_url(bench.redis_url) as redis:
        redis.config_set("maxmemory-policy", "allkeys-lru")
        try:
            yield
        finally:
            redis.config_set("maxmemory-policy", "noeviction")


@_row("workers are at another Redis, or none runs", "workers", "no worker lives", "Start `zeromask up`")
def _no_worker(bench: Bench) -> Iterator[None]:
    bench.environ["REDIS_URL"] = bench.redis_url
    yield


@_row("the backend hangs", "backend", "nothing usable answers", "Start `zeromask up` or `zeromask backend`")
def _hanging_backend(bench: Bench) -> Iterator[None]:
    backend = bench.house.supervisor.pid("backend")
    os.kill(backend, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(backend, signal.SIGCONT)


@_row("`ZEROMASK_PORT` is another program's", "backend", "another program answers", "Set ZEROMASK_PORT to a free port")
def _port_of_another(bench: Bench) -> Iterator[None]:
    with serving(lambda asked: as_json({"hello": "world"})) as server:
        bench.environ["ZEROMASK_PORT"] = server.url.rsplit(":", 1)[-1]
        yield


@_row("workers have another `MODEL` than these settings", "workers", "and these settings have MODEL=builtin-vit",
      "the same MODEL")  # fmt: skip
def _another_model_here(bench: Bench) -> Iterator[None]:
    bench.environ["MODEL"] = "builtin-vit"
    yield


@_row("workers have another `MODEL` than the backend", "same model", "the backend asks for builtin-vit",
      "Give backend and workers the same MODEL")  # fmt: skip
def _another_model_there(bench: Bench) -> Iterator[None]:
    with _second_backend(bench, model="builtin-vit", host="127.0.0.1") as url:
        _connect_only(bench, bench.own_project(), url)
        yield


@_row("the project's number is wrong", "project", "has no project", "The number stands in the address")
def _no_project(bench: Bench) -> Iterator[None]:
    bench.project = 99_999
    yield


@_row("the labeling config has nothing to predict", "labels", "no BrushLabels", "brush.xml")
def _no_labels(bench: Bench) -> Iterator[None]:
    project = bench.own_project()
    config = '<View><Image name="image" value="$image"/><TextArea name="text" toName="image"/></View>'
    bench.house.label_studio.request("PATCH", f"/api/projects/{project}/", json={"label_config": config})
    yield


@_row("Label Studio was started with the first of its two variables only", "private addresses",
      "for webhooks, so that it connects a model without one", "both ML_BLOCK_LOCAL_IP=false")  # fmt: skip
def _first_variable_only(bench: Bench) -> Iterator[None]:
    with _second_backend(bench, model="builtin", host=REFUSED_HOST) as url:
        bench.environ["ZEROMASK_HOST"] = REFUSED_HOST
        api, project = bench.house.label_studio, bench.own_project()
        for row in api.request("GET", "/api/ml/", params={"project": project}):
            api.request("DELETE", f"/api/ml/{row['id']}")
        with pytest.raises(LabelStudioError, match="reserved network address"):  # and it is connected nevertheless
            api.request("POST", "/api/ml/", json={"project": project, "url": url, "title": "Zeromask"})
        yield


@_row("no model is connected", "model", "no model is connected", "zeromask connect")
def _no_model(bench: Bench) -> Iterator[None]:
    api, project = bench.house.label_studio, bench.own_project()
    (row,) = api.request("GET", "/api/ml/", params={"project": project})
    api.request("DELETE", f"/api/ml/{row['id']}")
    yield


@_row("the backend has moved to another port", "model", "which is not known to be this backend", "--replace")
def _moved_backend(bench: Bench) -> Iterator[None]:
    project = bench.own_project()
    with serving(another_backend) as server:
        _connect_only(bench, project, server.url)
    yield


@_row("the backend that is connected does not run", "model", "nothing answers at", "Start the backend there")
def _stopped_backend(bench: Bench) -> Iterator[None]:
    project = bench.own_project()
    with serving(another_backend) as server:
        _connect_only(bench, project, server.url)
    bench.environ["ZEROMASK_ALLOWED_HOSTS"] = "127.0.0.1"
    yield


@_row("another model is connected before this one", "model", "asks the first model only", "--replace")
def _another_model_first(bench: Bench) -> Iterator[None]:
    project, api = bench.own_project(), bench.house.label_studio
    with serving(another_backend) as server:
        _connect_only(bench, project, server.url)
        body = {"project": project, "url": bench.house.services.backend_url, "title": "Zeromask"}
        api.request("POST", "/api/ml/", json=body)
        yield


@_row("the webhook is deleted", "webhook", "without a webhook", "It makes the webhook")
def _no_webhook(bench: Bench) -> Iterator[None]:
    project, api = bench.own_project(), bench.house.label_studio
    for hook in webhooks(api, project):
        api.request("DELETE", f"/api/webhooks/{hook.id}/")
    yield


@_row("the webhook is switched off", "webhook", "is switched off", "Switch it on")
def _webhook_off(bench: Bench) -> Iterator[None]:
    project, api = bench.own_project(), bench.house.label_studio
    (hook,) = webhooks(api, project)
    api.request("PATCH", f"/api/webhooks/{hook.id}/", json={"is_active": False})
    yield


@_row("the webhook lacks the secret", "webhook", "does not carry ZEROMASK_WEBHOOK_SECRET", "zeromask connect")
def _webhook_without_secret(bench: Bench) -> Iterator[None]:
    bench.environ |= {"ZEROMASK_USER": "studio", "ZEROMASK_PASSWORD": "a password of models",
                      "ZEROMASK_WEBHOOK_SECRET": "a secret of webhooks"}  # fmt: skip
    yield


@_row("the images are on a private address", "image", "private address", "ZEROMASK_ALLOW_PRIVATE_IMAGES")
def _private_image(bench: Bench) -> Iterator[None]:
    project = bench.own_project(count=0)
    rows = [{"image": "http://169.254.169.254/secret.png"}]
    bench.house.label_studio.request("POST", f"/api/projects/{project}/import", json=rows)
    yield


@_row("an image is damaged", "image", "no image format", "Convert it to PNG or JPEG")
def _damaged_image(bench: Bench) -> Iterator[None]:
    project = bench.own_project(count=0)
    upload(bench.house, project, [b"\x89PNG not really"])
    yield


@_row("the project has no task", "image", "no task to try", "Import one")
def _no_task(bench: Bench) -> Iterator[None]:
    bench.own_project(count=0)
    yield


@_row("the model does not know the words of a label", "words", "does not know 'platypus'", "prompt, synonyms or hint")
def _unknown_words(bench: Bench) -> Iterator[None]:
    bench.own_project(config=CONFIG.format(more='<Label value="platypus"/>'))
    bench.draw = True
    yield


@_row("smart tools do not ask the model", "interactive", "is not asked for clicks", "Interactive preannotations")
def _not_interactive(bench: Bench) -> Iterator[None]:
    label = '<Label value="red shape" alias="red/thing"/>'
    smart = f'<KeyPointLabels name="point" toName="image" smart="true">{label}</KeyPointLabels></View>'
    bench.own_project(config=CONFIG.format(more="").replace("</View>", smart))
    yield


@_row("predictions of another model, or of none, are stored", "predictions", "of other models: 'somebody-elses' (1)",
      "Settings -> Predictions")  # fmt: skip
def _foreign_predictions(bench: Bench) -> Iterator[None]:
    (task,) = tasks(bench.house, bench.own_project())
    for version in ("somebody-elses", ""):
        bench.house.label_studio.create_prediction(task.id, [], score=0.5, version=version)
    bench.house.label_studio.show_version(bench.project, "somebody-elses")
    yield


@_row("annotators are shown a version that is not there", "shown version", "of which there are none",
      "Choose a version")  # fmt: skip
def _absent_version(bench: Bench) -> Iterator[None]:
    (task,) = tasks(bench.house, bench.own_project())
    api, gone = bench.house.label_studio, "builtin-zeroshot-01234567"
    api.create_prediction(task.id, [], score=0.5, version="builtin-zeroshot-76543210")
    prediction = api.create_prediction(task.id, [], score=0.5, version=gone)
    api.show_version(bench.project, gone)
    api.delete_prediction(prediction.id)
    yield


@_row("predictions are hidden from annotators", "shown version", "hidden from annotators", "Use predictions")
def _hidden_predictions(bench: Bench) -> Iterator[None]:
    project = bench.own_project()
    bench.house.label_studio.request("PATCH", f"/api/projects/{project}/", json={"show_collab_predictions": False})
    yield


@_row("the project is paused", "tasks", "the project is paused", "zeromask resume")
def _paused(bench: Bench) -> Iterator[None]:
    pending = PendingTasks(bench.house.redis, drain_tasks=1, lease_s=1.0)
    pending.pause(bench.own_project())
    try:
        yield
    finally:
        pending.resume(bench.project)


def another_backend(asked: Asked) -> Answer:
    """A model that is none of ours."""
    return as_json({"model_version": "1"} if asked.path == "/setup" else {"status": "UP", "model_class": "Other"})


def _connect_only(bench: Bench, project: int, url: str) -> None:
    """Connect a model as the project's only one."""
    api = bench.house.label_studio
    for row in api.request("GET", "/api/ml/", params={"project": project}):
        api.request("DELETE", f"/api/ml/{row['id']}")
    api.request("POST", "/api/ml/", json={"project": project, "url": url, "title": "Zeromask"})


@contextmanager
def _second_backend(bench: Bench, *, model: str, host: str) -> Iterator[str]:
    """Another backend at the Redis of the house; the settings of the doctor become its own."""
    settings = replace(bench.house.settings, redis_url=bench.house.services.redis_url, model=model, host=host,
                       port=free_port())  # fmt: skip
    url = settings.backend_url
    command = Command("second backend", module_command("backend"), settings.environment("backend"),
                      ready=lambda: answers_http(f"{url}/health"), bare=True)  # fmt: skip
    bench.environ |= {"ZEROMASK_PORT": str(settings.port)}
    bench.house.supervisor.start(command)
    try:
        yield url
    finally:
        bench.house.supervisor.end(command.name)


if __name__ == "__main__":
    sys.stdout.write(f"{set_ups_table(SET_UPS)}\n")
