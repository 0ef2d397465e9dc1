"""Where an attack happens: a fresh product beside a real Label Studio, started as `zeromask up` starts it, a bystander
whose tasks are opened meanwhile, and ordinary tasks of which none may be lost.
"""

from __future__ import annotations

import base64
import http.client
import json
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from redis import Redis

from plugin_config.errors import LabelStudioError, QueueUnavailable
from plugin_config.label_studio.client import LabelStudio
from plugin_config.local.services import start_services
from plugin_config.local.supervisor import Supervisor, free_port
from plugin_config.queue.pending import PendingTasks
from plugin_config.settings import Settings
from tests.attack.watch import DutyWatch
from tests.faults.stand import Serving, Stand, quiet, wait_for
from tests.house import CONFIG, TOKEN, House, current_version

MOST_MB, MOST_OPENED_S, MOST_HEALTH_S = 1500, 5.0, 1.0
OWN = "/data/upload/own/"
_OPENED_PATIENCE_S = 30.0
_SETTLES_S = 240.0
_ORDINARY, _OPENABLE = 6, 60
_PROCESSES = ("backend", "worker", "redis")


@dataclass(frozen=True)
class Finding:
    """What an attack itself shows."""

    held: bool
    evidence: str


@dataclass(frozen=True)
class Row:
    """What came of one attack.

    Attributes:
        attack: what was tried.
        held: whether it got nowhere, everybody else was served meanwhile within the bounds, and nothing was lost.
        resisted: whether it got nowhere.
        evidence: what was counted.
        grown_mb: process -> most memory of its own above idle, MB.
        opened_s: longest time until another project's opened task had its prediction, seconds; None = not measured.
        peace_s: the same before the attack began.
        health_s: longest time until /health answered, seconds.
        lost: ordinary tasks without a prediction at the end, or with two.
        seconds: the whole row took.
    """

    attack: str
    held: bool
    evidence: str
    resisted: bool = False
    grown_mb: Mapping[str, int] = field(default_factory=dict)
    opened_s: float | None = None
    peace_s: float | None = None
    health_s: float | None = None
    lost: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Reply:
    """What the backend answered; status 0 = nothing, within the patience of whoever asked."""

    status: int
    body: bytes
    seconds: float


class Ground(Stand):
    """A running product under attack. Made in a `with` block by `ground`."""

    def __init__(self, house: House, settings: Settings) -> None:
        super().__init__(house, settings, 1)
        self.workers = ["worker"]
        self._bystander = self.project(_OPENABLE, name="bystander")
        self._version = current_version(house, self._bystander)
        self._closed = self.task_ids(self._bystander)
        self._ordinary = self.project(2 * _ORDINARY, name="ordinary")
        self.open_one()  # the first costs what only a first one does

    @property
    def url(self) -> str:
        """Address of the backend."""
        return self.house.services.backend_url

    def send(
        self, path: str, body: bytes | Mapping[str, Any] = b"", *, method: str = "POST", within_s: float = 30,
        headers: Mapping[str, str] | None = None, signed: bool = True,
    ) -> Reply:  # fmt: skip
        """One request to the backend over a connection of its own; signed in unless told otherwise."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        told = {"Content-Type": "application/json", **(headers or {})}
        if signed and self.settings.signs_in and "Authorization" not in told:
            told["Authorization"] = basic(self.settings.user, self.settings.password)
        started = time.monotonic()
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=within_s)
        try:
            connection.request(method, path, content or None, told)
            answer = connection.getresponse()
            return Reply(answer.status, answer.read(), time.monotonic() - started)
        except (OSError, http.client.HTTPException):
            return Reply(0, b"", time.monotonic() - started)
        finally:
            connection.close()

    def asked(self, project: int, ids: list[int], *, within_s: float = 30) -> Reply:
        """What Label Studio sends for these tasks, once."""
        body = {"tasks": [{"id": task} for task in ids], "project": f"{project}.1", "params": {"context": None},
                "label_config": CONFIG.format(more="")}  # fmt: skip
        return self.send("/predict", body, within_s=within_s)

    def ask(self, project: int, ids: list[int], *, patient: bool = True) -> bool:
        """The same, again and again for a minute until it is taken."""
        return wait_for(lambda: self.asked(project, ids).status == 200, within_s=60 if patient else 0)

    def open_one(self, *, within_s: float = _OPENED_PATIENCE_S) -> float | None:
        """An annotator opens a task of another project: seconds until its prediction is in Label Studio."""
        if not self._closed:
            return None
        task, started = self._closed.pop(), time.monotonic()

        def left() -> float:
            return max(0.5, within_s - (time.monotonic() - started))

        wait_for(lambda: self.asked(self._bystander, [task], within_s=left()).status == 200, within_s=within_s)
        wait_for(lambda: self._is_predicted(task), within_s=left())
        return time.monotonic() - started

    def pids(self) -> dict[str, int]:
        """The processes that are watched."""
        return {name: self.house.supervisor.pid(name) for name in _PROCESSES}

    def attacked(self, attack: str, act: Callable[[], Finding]) -> Row:
        """Run an attack while everybody else is at work, and measure them."""
        started, ids = time.monotonic(), self.task_ids(self._ordinary)
        peace = max(self.open_one() or 0.0 for _ in range(2))
        self.ask(self._ordinary, ids[:_ORDINARY])
        with DutyWatch(self.pids, self.url, self.open_one) as watch:
            finding = act()
        self.ask(self._ordinary, ids[_ORDINARY:])
        counted = self.count(attack, self._ordinary, ids, note="", within_s=_SETTLES_S)
        lost = counted.lost + counted.failed + counted.duplicated
        opened = max(watch.opened_s, default=_OPENED_PATIENCE_S)
        grown = {name: max(0, round(mb)) for name, mb in watch.grown_mb.items()}
        broken = [
            *(f"{name} grew by {mb} MB" for name, mb in grown.items() if mb >= MOST_MB),
            *(f"{name} was ended by this program for its memory" for name in dict.fromkeys(watch.stopped)),
            *([f"an opened task waited {opened:.1f} s"] if opened >= MOST_OPENED_S else []),
            *([f"/health took {watch.health_s:.1f} s"] if watch.health_s > MOST_HEALTH_S else []),
            *([f"{lost} ordinary tasks lost, failed or doubled"] if lost else []),
        ]
        evidence = finding.evidence + (f" Out of bounds: {'; '.join(broken)}." if broken else "")
        return Row(
            attack, finding.held and not broken, evidence, finding.held, grown, round(opened, 2), round(peace, 2),
            round(watch.health_s, 2), lost, round(time.monotonic() - started, 1),
        )  # fmt: skip

    def told_failures(self, project: int) -> int:
        """How many tasks of a project ended with a stored reason."""
        return len(self.house.pending.failures(project))

    def wait_ended(self, project: int, *, within_s: float) -> bool:
        """Wait until no task of a project is open any more."""
        return wait_for(lambda: quiet(lambda: self._waiting(project)) == 0, within_s=within_s)

    def predicted(self, project: int) -> int:
        """How many tasks of a project have a prediction in Label Studio."""
        return sum(bool(task.versions) for task in self.house.label_studio.all_tasks(project))

    def pictures(self, contents: list[bytes], *, name: str) -> int:
        """A project of these files, uploaded to Label Studio."""
        project = self.project(0, name=name)
        for number, content in enumerate(contents):  # one by one: Label Studio bounds the sum of a request
            files = [("file", (f"{name}-{number}.png", content, "image/png"))]
            self.house.label_studio.request("POST", f"/api/projects/{project}/import", files=files)
        wait_for(lambda: len(self.task_ids(project)) == len(contents), within_s=60, told="tasks")
        return project

    def addresses(self, urls: list[str], *, name: str) -> int:
        """A project whose images are at these addresses; OWN in one stands for where its own files lie."""
        project = self.project(0, name=name)
        body = [{"image": url.replace(OWN, f"/data/upload/{project}/")} for url in urls]
        self.house.label_studio.request("POST", f"/api/projects/{project}/import", json=body)
        wait_for(lambda: len(self.task_ids(project)) == len(urls), within_s=60, told="tasks")
        return project

    def _waiting(self, project: int) -> int:
        counts = self.house.pending.counts(project)
        return counts.pending + counts.leased

    def _is_predicted(self, task: int) -> bool:
        try:
            return any(row.version == self._version for row in self.house.label_studio.predictions(task))
        except (LabelStudioError, QueueUnavailable):
            return False


@contextmanager
def ground(
    server: Serving, *, through: str = "", parent: Path | None = None, learners: int = 0, **changes: object
) -> Iterator[Ground]:
    """Start a product of its own.

    Args:
        server: the Label Studio.
        through: address by which the worker reaches Label Studio, where something stands in between.
        parent: folder in which the state folder is made; None = a private one.
        learners: processes that learn.
        changes: other settings.
    """
    with tempfile.TemporaryDirectory(prefix="zm-a-") as folder:
        settings = Settings(
            model="builtin", state_dir=str((parent or Path(folder)) / "state"), port=free_port(),
            label_studio_url=through or server.url, label_studio_api_key=TOKEN, lease_s=4.0, reconcile_s=3.0, threads=1,
        )  # fmt: skip
        settings = replace(settings, **changes)  # type: ignore[arg-type]
        with Supervisor(settings.state_path) as supervisor:
            services = start_services(supervisor, settings, learners=learners)
            with LabelStudio(server.url, TOKEN, timeout_s=180) as api, Redis.from_url(services.redis_url) as connection:
                pending = PendingTasks(connection, drain_tasks=settings.drain_tasks, lease_s=settings.lease_s)
                yield Ground(House(api, services, supervisor, pending, connection, settings), settings)


def basic(user: str, password: str) -> str:
    """The header of basic auth."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def at_once(calls: list[Callable[[], Any]], *, threads: int, until: float = float("inf")) -> int:
    """Call all of them, so many at the same time, until this moment of the monotonic clock; returns how many were."""
    left, done, lock = list(reversed(calls)), [0], threading.Lock()

    def work() -> None:
        while time.monotonic() < until:
            with lock:
                if not left:
                    return
                call = left.pop()
            call()
            with lock:
                done[0] += 1

    running = [threading.Thread(target=work, daemon=True) for _ in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return done[0]
