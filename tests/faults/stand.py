"""One row of the table: a fresh product beside a real Label Studio, what is asked of it, and the count at the end."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import httpx
from redis import Redis

from plugin_config.demo.setup import label_studio_command
from plugin_config.errors import LabelStudioError, QueueUnavailable
from plugin_config.label_studio.client import LabelStudio
from plugin_config.local.embedded_redis import embedded_redis
from plugin_config.local.services import Services
from plugin_config.local.supervisor import Command, Supervisor, free_port, module_command
from plugin_config.queue.pending import PendingTasks
from plugin_config.settings import Settings
from tests.house import CONFIG, TOKEN, House, current_version, make_project, runs, tasks

RECONCILE_S = 3.0
_STARTS_S, _MODEL_LOADING_S = 300.0, 600.0  # on a machine that does much else
_LOOKS_S = 60.0  # two looks of a worker come within 2 * RECONCILE_S where the machine is idle
_UPLOAD = 12


@dataclass(frozen=True)
class Row:
    """What came of one fault. `lost` = submitted - predicted - failed; `note` says what was really broken, and how."""

    fault: str
    submitted: int
    predicted: int
    failed: int
    duplicated: int
    lost: int
    seconds: float
    note: str


class Serving(Protocol):
    """A Label Studio that runs somewhere."""

    @property
    def url(self) -> str:
        """Its address."""


@dataclass(frozen=True)
class Furnished:
    """A Label Studio with a product beside it that is broken more than once: `stand` goes on with it."""

    url: str
    stand: Stand


class LabelStudioServer:
    """A real Label Studio on SQLite that can be stopped and started. Made in a `with` block by `label_studio`."""

    def __init__(self, data: Path) -> None:
        self.url = f"http://localhost:{free_port()}"
        self._command = label_studio_command(self.url, TOKEN, data)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        command = self._command
        self._process = subprocess.Popen(command.argv, env={**os.environ, **command.env}, stdin=subprocess.DEVNULL,
                                         stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                         start_new_session=True)  # fmt: skip
        wait_for(lambda: command.ready is None or command.ready(), within_s=240, told="Label Studio")

    def stop(self) -> None:
        """Kill it, whatever it is at."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


@contextmanager
def label_studio() -> Iterator[LabelStudioServer]:
    """One Label Studio for all rows."""
    with tempfile.TemporaryDirectory(prefix="zm-ls-") as folder:
        server = LabelStudioServer(Path(folder))
        try:
            server.start()
            yield server
        finally:
            server.stop()


class Stand:
    """A running product: Redis, backend, workers. Made in a `with` block by `stand`."""

    def __init__(self, house: House, settings: Settings, workers: int) -> None:
        self.house = house
        self.settings = settings
        self.workers = [f"worker-{number + 1}" for number in range(workers)]

    def project(self, count: int, *, name: str) -> int:
        """A project of this many pictures, connected to the backend."""
        sign_in = (self.settings.user, self.settings.password)
        project = make_project(self.house, count=min(count, _UPLOAD), name=name, sign_in=sign_in)
        api = self.house.label_studio  # the others show the same pictures: Label Studio takes files slowly
        urls = [str(task.data["image"]) for task in api.tasks(project, self.task_ids(project))] if count else []
        more = [{"image": urls[number % len(urls)]} for number in range(count - len(urls))]
        if more:
            api.request("POST", f"/api/projects/{project}/import", json=more)
        wait_for(lambda: len(self.task_ids(project)) == count, within_s=60, told="tasks")
        return project

    def task_ids(self, project: int) -> list[int]:
        """Every task of a project."""
        return [task.id for task in tasks(self.house, project)]

    def ask(self, project: int, ids: list[int], *, patient: bool = True) -> bool:
        """What Label Studio sends when somebody selects tasks and retrieves predictions; when the backend does not
        answer, that somebody asks again. Returns whether it was answered.
        """
        body = {"tasks": [{"id": task} for task in ids], "project": f"{project}.1", "params": {"context": None},
                "label_config": CONFIG.format(more="")}  # fmt: skip
        deadline = time.monotonic() + (60 if patient else 0)
        while True:
            try:
                url = f"{self.house.services.backend_url}/predict"
                answer = httpx.post(url, json=body, timeout=100, trust_env=False)
                if answer.status_code == 200 and answer.json()["results"] == [[] for _ in ids]:
                    return True
            except httpx.TransportError:
                pass
            if time.monotonic() > deadline:
                return False
            time.sleep(0.5)

    def lives(self, name: str) -> bool:
        """Whether a process runs now."""
        return runs(self.house.supervisor.pid(name))

    def kill(self, name: str) -> bool:
        """kill -9; the supervisor starts it again. False when it was dead already."""
        if not self.lives(name):
            return False
        os.kill(self.house.supervisor.pid(name), signal.SIGKILL)
        return True

    def at_work(self) -> int:
        """How many tasks are leased."""
        return sum(self.house.pending.counts(project).leased for project in self.house.pending.projects())

    def wait_at_work(self, *, within_s: float = 60) -> None:
        """Wait until a worker holds tasks."""
        wait_for(lambda: quiet(self.at_work) > 0, within_s=within_s, told="work")

    def log(self, name: str) -> str:
        """What a process said."""
        return self.house.supervisor.log_path(name).read_text(errors="replace")

    def count(
        self, fault: str, project: int, ids: list[int], *, note: str, within_s: float = 240,
        late: Callable[[], int] = lambda: 0,
    ) -> Row:
        """Wait until every task has ended and no post is on its way any more (`late` tells how many are), and for the
        workers to look where something is doubled; then count what Label Studio holds.
        """  # fmt: skip
        started = time.monotonic()
        wait_for(lambda: quiet(lambda: self._open(project)) == 0, within_s=within_s)
        wait_for(lambda: late() == 0, within_s=within_s, told="the last post's end")
        wait_for(lambda: max(self._posted(project, ids).values()) < 2, within_s=_LOOKS_S)
        found = self._posted(project, ids)
        failures = {ref.task for ref in self.house.pending.failures(project)}
        predicted = sum(number > 0 for number in found.values())
        failed = sum(number == 0 and task in failures for task, number in found.items())
        duplicated = sum(max(0, number - 1) for number in found.values())
        lost = len(ids) - predicted - failed
        return Row(fault, len(ids), predicted, failed, duplicated, lost, round(time.monotonic() - started, 1), note)

    def _posted(self, project: int, ids: list[int]) -> dict[int, int]:
        version = current_version(self.house, project)
        api = self.house.label_studio
        return {task: sum(row.version == version for row in api.predictions(task)) for task in ids}

    def _open(self, project: int) -> int:
        waiting = httpx.get(f"{self.house.services.backend_url}/health", timeout=5, trust_env=False).json()
        counts = self.house.pending.counts(project)
        return counts.pending + counts.leased + int(waiting["tasks_waiting_for_redis"])


@contextmanager
def stand(
    server: Serving, *, workers: int = 1, learners: int = 0, through: str = "", env: Mapping[str, str] | None = None,
    **changes: object,
) -> Iterator[Stand]:
    """Start Redis, backend, workers and learners of their own. `through`: the address by which the workers reach Label
    Studio; `env`: more environment for all of them; `changes`: other settings.
    """  # fmt: skip
    own = learners or through or env or changes
    if isinstance(server, Furnished) and workers <= len(server.stand.workers) and not own:
        yield server.stand
        return
    with tempfile.TemporaryDirectory(prefix="zm-f-") as folder:
        state = Path(folder)
        settings = Settings(
            model="builtin", state_dir=folder, port=free_port(), label_studio_url=server.url,
            label_studio_api_key=TOKEN, lease_s=4.0, drain_tasks=4, reconcile_s=RECONCILE_S, threads=1,
        )  # fmt: skip
        settings = replace(settings, **changes)  # type: ignore[arg-type]
        with Supervisor(state) as supervisor:
            redis = embedded_redis(state)
            supervisor.start(replace(redis.command, env=dict(env or {})))
            services = _start(supervisor, settings, redis.url, workers, through or server.url, dict(env or {}))
            _start_learners(supervisor, settings, redis.url, learners, dict(env or {}))
            with LabelStudio(server.url, TOKEN, timeout_s=180) as api, Redis.from_url(redis.url) as connection:
                pending = PendingTasks(connection, drain_tasks=settings.drain_tasks, lease_s=settings.lease_s)
                yield Stand(House(api, services, supervisor, pending, connection, settings), settings, workers)


def _start(
    supervisor: Supervisor, settings: Settings, redis_url: str, workers: int, address: str, env: dict[str, str]
) -> Services:
    backend_url = f"http://127.0.0.1:{settings.port}"
    told = replace(settings, redis_url=redis_url)
    mine = {**told.environment("worker"), **env}
    commands = [
        Command("backend", module_command("backend"), {**told.environment("backend"), **env},
                ready=lambda: answers(backend_url), ready_s=_STARTS_S)
    ]  # fmt: skip
    commands += [
        Command(f"worker-{number}", module_command("worker"), {**mine, "LABEL_STUDIO_URL": address},
                ready=lambda: answers(backend_url, workers=workers), ready_s=_MODEL_LOADING_S)
        for number in range(1, workers + 1)
    ]  # fmt: skip
    for command in commands:
        supervisor.launch(command)
    for command in commands:
        supervisor.wait_ready(command)
    return Services(redis_url, backend_url)


def _start_learners(
    supervisor: Supervisor, settings: Settings, redis_url: str, learners: int, env: dict[str, str]
) -> None:
    argv = [*module_command("worker"), "--queue", "finetune"]
    told = replace(settings, redis_url=redis_url).environment("worker")
    for number in range(1, learners + 1):
        supervisor.launch(Command(f"learner-{number}", argv, {**told, **env}))


def answers(backend_url: str, *, workers: int = 0) -> bool:
    """Whether the backend answers and this many workers live."""
    try:
        answer = httpx.get(f"{backend_url}/health", timeout=2, trust_env=False)
    except httpx.TransportError:
        return False
    return answer.status_code == 200 and int(answer.json()["workers"]) >= workers


def wait_for(condition: Callable[[], bool], *, within_s: float, told: str = "") -> bool:
    """Wait until it holds. False when the time is over, an error when it is `told` what for."""
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            if told:
                raise TimeoutError(f"{told} did not come within {within_s:.0f} s")
            return False
        time.sleep(0.05)
    return True


def quiet(ask: Callable[[], int]) -> int:
    """The answer, -1 while something is broken on purpose."""
    try:
        return ask()
    except (QueueUnavailable, LabelStudioError, httpx.TransportError):
        return -1
