"""The whole product for tests: a real Label Studio, Redis, backend and worker, started once per run, and its use."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from typing import Any

import psutil
import pytest
from PIL import Image, ImageDraw
from redis import Redis

from plugin_config.demo.setup import label_studio_command
from plugin_config.files import private_folder
from plugin_config.label_studio.client import LabelStudio, Task
from plugin_config.local.services import Services, start_services
from plugin_config.local.supervisor import Supervisor, free_port
from plugin_config.model_version import ZEROSHOT, Learned, ModelVersion
from plugin_config.queue.pending import PendingTasks
from plugin_config.settings import Settings
from plugin_config.versions.served import ServedAdapters
from plugin_config.vocabulary import parse_vocabulary

TOKEN = "0123456789abcdef0123456789abcdef01234567"
SIZE = (192, 144)
REFUSED_HOST = "127.0.0.2"
"""An address of this machine to which the Label Studio of the run connects models, and sends no webhooks: as one does
whose operator set ML_BLOCK_LOCAL_IP=false alone, but for this address only."""
_REFUSING = {"SSRF_PROTECTION_ENABLED": "true", "USE_DEFAULT_BANNED_SUBNETS": "false",
             "USER_ADDITIONAL_BANNED_SUBNETS": f"{REFUSED_HOST}/32"}  # fmt: skip
PATIENCE_S = 300.0
"""Longest wait where only a test that hangs is to end: a busy machine may take a minute to import torch."""

CONFIG = """<View><Image name="image" value="$image"/>
  <BrushLabels name="brush" toName="image"><Label value="red shape" alias="red/thing"/>{more}</BrushLabels>
  <PolygonLabels name="polygon" toName="image"><Label value="blue shape"/></PolygonLabels>
  <RectangleLabels name="box" toName="image"><Label value="green shape"/></RectangleLabels></View>"""


@dataclass(frozen=True)
class House:
    """Everything the tests talk to; `settings` are those of the backend and the workers."""

    label_studio: LabelStudio
    services: Services
    supervisor: Supervisor
    pending: PendingTasks
    redis: Redis
    settings: Settings


@pytest.fixture(scope="session", name="house")
def house_fixture(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    state = tmp_path_factory.mktemp("house")
    url = f"http://localhost:{free_port()}"
    settings = Settings(
        model="builtin", state_dir=str(state), port=free_port(), label_studio_url=url, label_studio_api_key=TOKEN,
        lease_s=4.0, drain_tasks=4, reconcile_s=3600.0, threads=1,
    )  # fmt: skip
    private_folder(state / "label-studio")
    os.umask(0o022)  # the usual one: what is written must not depend on it
    with Supervisor(state) as supervisor:
        command = label_studio_command(url, TOKEN, state / "label-studio")
        command = replace(command, ready_s=2 * PATIENCE_S, env={**command.env, **_REFUSING})
        supervisor.launch(command)
        services = start_services(supervisor, settings, learners=0)
        supervisor.wait_ready(command)
        with LabelStudio(url, TOKEN) as label_studio, Redis.from_url(services.redis_url) as redis:
            pending = PendingTasks(redis, drain_tasks=4, lease_s=4.0)
            yield House(label_studio, services, supervisor, pending, redis, settings)


def picture(top: int) -> bytes:
    """A grey picture with a red, a blue and a green square side by side, `top` pixels from the top."""
    image = Image.new("RGB", SIZE, (128, 128, 120))
    draw = ImageDraw.Draw(image)
    for left, colour in ((8, (215, 40, 40)), (70, (40, 80, 220)), (132, (40, 160, 60))):
        draw.rectangle((left, top, left + 46, top + 46), fill=colour)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def make_project(
    house: House, *, count: int = 3, config: str = CONFIG.format(more=""), name: str = "test",
    sign_in: tuple[str, str] = ("", ""), interactive: bool = False,
) -> int:  # fmt: skip
    """A project of `count` pictures, connected to the backend; `sign_in`: its user and password, where it has them;
    `interactive`: its smart tools ask the backend.
    """
    body: dict[str, Any] = {"title": f"house {name}", "label_config": config, "show_collab_predictions": True}
    project = int(house.label_studio.request("POST", "/api/projects/", json=body)["id"])
    if count:
        upload(house, project, [picture(top=20 + 2 * i) for i in range(count)])
    body = {"project": project, "url": house.services.backend_url, "title": "Zeromask", "is_interactive": interactive}
    if all(sign_in):
        body |= {"auth_method": "BASIC_AUTH", "basic_auth_user": sign_in[0], "basic_auth_pass": sign_in[1]}
    house.label_studio.request("POST", "/api/ml/", json=body)
    return project


def upload(house: House, project: int, contents: list[bytes]) -> None:
    files = [(f"{i}.png", (f"{i}.png", content, "image/png")) for i, content in enumerate(contents)]
    house.label_studio.request("POST", f"/api/projects/{project}/import", files=files)


def personal_token(api: LabelStudio) -> str:
    """Make a personal access token; older ones of the user are revoked, because one at a time is allowed."""
    for row in api.request("GET", "/api/token/"):
        api.request("POST", "/api/token/blacklist/", json={"refresh": row["token"]})
    return str(api.request("POST", "/api/token/")["token"])


def retrieve(house: House, project: int) -> None:
    """Label Studio itself asks for predictions of all tasks."""
    params = {"id": "retrieve_tasks_predictions", "project": project}
    body = {"selectedItems": {"all": True, "excluded": []}}
    house.label_studio.request("POST", "/api/dm/actions/", params=params, json=body)


def current_version(house: House, project: int, *, adapter: str = ZEROSHOT, learned: Learned | None = None) -> str:
    """The version that the house's workers stamp on predictions of the project's present labels."""
    vocabulary = parse_vocabulary(house.label_studio.project(project).label_config)
    copy = ServedAdapters(house.redis).copy(project, house.settings.model)
    learned = copy.told if learned is None and copy is not None and copy.served == adapter else learned
    return str(ModelVersion.of(house.settings, vocabulary, adapter=adapter, learned=learned))


def tasks(house: House, project: int) -> list[Task]:
    return list(house.label_studio.all_tasks(project))


def wait_until(condition: Callable[[], bool], *, within_s: float = PATIENCE_S, told: str = "condition") -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"{told} did not come true within {within_s:.0f} s")
        time.sleep(0.1)


def runs(pid: int) -> bool:
    """Whether a process runs; one that is dead and only not yet taken note of does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def left_running(pids: Collection[int], *, within_s: float = 30.0) -> list[int]:
    """Those that still run after a moment to end in."""
    deadline = time.monotonic() + within_s
    while (left := [pid for pid in pids if runs(pid)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


def wait_open_page(house: House, project: int) -> None:
    """Wait until Label Studio has sent no /setup of a project for longer than the backend goes by: a person has opened
    the page, the menu and the window. Asking Label Studio for its models sends one, and workers ask, too.
    """

    def setups() -> int:
        told = house.supervisor.log_path("backend").read_text(errors="replace")
        return told.count(f"POST /setup 200 project={project} ")

    def none_came() -> bool:
        before = setups()
        time.sleep(2.1)
        return setups() == before

    assert setups(), "the log tells of each"
    wait_until(none_came, told=f"a pause without /setup of project {project}")


def wait_shown(house: House, project: int, version: str) -> None:
    """A worker has this version shown after it has stored the first prediction of it."""
    wait_until(lambda: house.label_studio.project(project).model_version == version, told=f"version {version} is shown")


def wait_predicted(house: House, project: int) -> str:
    version = current_version(house, project)
    wait_until(lambda: all(version in task.versions for task in tasks(house, project)),
               told=f"predictions of project {project} at {version}")  # fmt: skip
    return version


def stored(house: House, project: int) -> dict[int, list[str]]:
    """Versions of the predictions of each task, doubles shown."""
    return {t.id: [p.version for p in house.label_studio.predictions(t.id)] for t in tasks(house, project)}
