"""Reads what the status page shows: once a second at most for each page, however many people have it open."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, field, replace
from typing import TypeVar

from redis import Redis

from plugin_config.errors import QueueUnavailable
from plugin_config.model_version import model_slug
from plugin_config.overview.control import QueueControl, QueueState
from plugin_config.overview.tasks import ProjectTasks, read_tasks
from plugin_config.overview.versions import ProjectVersions, read_versions
from plugin_config.queue.ledger import ProjectLedger
from plugin_config.queue.titles import titles
from plugin_config.settings import Settings
from plugin_config.versions.served import ServedAdapters, ServedCopy

T = TypeVar("T")

PROJECTS_A_PAGE = 50
_FRESH_S = 1.0
_MOST_KEPT = 64  # pages, and projects whose versions are remembered
_VERSIONS_FRESH_S = 10.0  # they may be in an object store, which takes its time and its price for each request
_VERSIONS_WAIT_S = 1.0
_BEING_READ = ProjectVersions(trouble="The versions are being read; look again in a moment.")
_MOST_TASKS = 10  # of each state
_MOST_ERRORS = 10


@dataclass(frozen=True)
class Overview:
    """What the page of all projects shows.

    Attributes:
        state: of the projects of this page, the workers and the last errors.
        titles: id of a project -> its title, where it is known.
        copies: id of a project -> what serves it, for the model of this backend or the only one.
        number: of the page, from 1, and `pages` how many there are.
        projects: how many projects there are in all.
    """

    state: QueueState
    titles: Mapping[int, str]
    copies: Mapping[int, ServedCopy]
    number: int
    pages: int
    projects: int


@dataclass(frozen=True)
class ProjectView:
    """What the page of one project shows.

    Attributes:
        project: its id; `title` as Label Studio has it, "" = not known.
        state: of the project alone, with the workers and its own last errors.
        tasks: some of each state; `task_count` how many Label Studio has, -1 = not known.
        label_remarks: sentences about its labels, those that the model cannot read among them.
        copy: what serves it; None before a worker has.
        judged: version -> label key -> how many of its regions were "accepted", "changed", "deleted", "added".
        versions: what was learned.
    """

    project: int
    title: str
    state: QueueState
    tasks: ProjectTasks
    task_count: int
    label_remarks: tuple[str, ...]
    copy: ServedCopy | None
    judged: Mapping[str, Mapping[str, Mapping[str, int]]]
    versions: ProjectVersions = field(default_factory=ProjectVersions)


class StatusReader:
    """Reads pages, each at most once a second. Every method raises QueueUnavailable where Redis does not answer.

    Args:
        redis: a connection that gives Redis a second or two.
        settings: of this process.
    """

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self._redis, self._settings = redis, settings
        self._control = QueueControl(redis, settings)
        self._ledger, self._adapters = ProjectLedger(redis), ServedAdapters(redis)
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, tuple[float, object]] = OrderedDict()
        self._versions = _VersionsReader()

    def forget(self) -> None:
        """Read everything again the next time: something was changed here."""
        with self._lock:
            self._kept.clear()
        self._versions.forget()

    def overview(self, number: int) -> Overview:
        """A page of projects; the last one where there are fewer."""
        return self._fresh(f"overview {number}", lambda: self._read_overview(number))

    def project(self, project: int) -> ProjectView | None:
        """A project; None where the queue never had a task of it."""
        found = self._fresh(f"project {project}", lambda: self._read_project(project))
        if found is None or found.copy is None:
            return found
        return replace(found, versions=self._versions.read(found.copy))  # without the lock: its place may be slow

    def _fresh(self, name: str, read: Callable[[], T]) -> T:
        if not self._lock.acquire(timeout=2.0):
            raise QueueUnavailable("Redis", "answers too slowly", "Ask again in a moment.")
        try:
            at, found = self._kept.get(name, (0.0, None))
            if found is None or time.monotonic() - at > _FRESH_S:
                found = read()
                self._kept[name] = time.monotonic(), found
                self._kept.move_to_end(name)
                if len(self._kept) > _MOST_KEPT:
                    self._kept.popitem(last=False)
            return found  # type: ignore[return-value]
        finally:
            self._lock.release()

    def _read_overview(self, number: int) -> Overview:
        known = self._control.projects()
        pages = max(1, -(-len(known) // PROJECTS_A_PAGE))
        number = min(number, pages)
        shown = known[(number - 1) * PROJECTS_A_PAGE : number * PROJECTS_A_PAGE]
        state = self._control.state(errors=_MOST_ERRORS, projects=shown)
        others = {row.project for row in state.errors} | {row.project for row in state.unanswered}
        named = {row.project: row.title for row in state.projects if row.title}
        named |= titles(self._redis, others - set(shown))
        copies = {project: copy for project in shown if (copy := self._chosen(state.copies.get(project, ())))}
        return Overview(state, named, copies, number, pages, len(known))

    def _read_project(self, project: int) -> ProjectView | None:
        if not self._control.knows(project):
            return None
        state = self._control.state(errors=100, projects=[project])
        copy = self._chosen(state.copies.get(project, ()))
        return ProjectView(
            project, state.projects[0].title, state,
            read_tasks(self._redis, project, most=_MOST_TASKS), self._ledger.task_count(project),
            self._ledger.label_remarks(project), copy, self._adapters.judged(project),
        )  # fmt: skip

    def _chosen(self, copies: tuple[ServedCopy, ...]) -> ServedCopy | None:
        """That of the backend's own model where several models served the project."""
        mine = model_slug(self._settings.model)
        return next((copy for copy in copies if model_slug(copy.owner.model) == mine), next(iter(copies), None))


@dataclass(frozen=True)
class _Read:
    serial: int
    at: float
    result: Future[ProjectVersions]
    before: ProjectVersions = _BEING_READ  # shown meanwhile

    def is_old(self, serial: int) -> bool:
        """Whether to read again; `serial` is of the pointer as Redis has it now."""
        return self.serial != serial or time.monotonic() - self.at > _VERSIONS_FRESH_S


class _VersionsReader:
    """Remembers versions for seconds, and waits a second at most for the place where they are."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reads: OrderedDict[str, _Read] = OrderedDict()

    def forget(self) -> None:
        """Read again the next time, except what is being read."""
        with self._lock:
            for folder in [folder for folder, read in self._reads.items() if read.result.done()]:
                del self._reads[folder]

    def read(self, copy: ServedCopy) -> ProjectVersions:
        """The versions; what was read before, or that they are being read, where their place is slow."""
        folder = copy.owner.folder
        with self._lock:
            read = self._reads.get(folder)
            if read is None or (read.result.done() and read.is_old(copy.serial)):
                before = _BEING_READ if read is None else read.result.result()
                read = _Read(copy.serial, time.monotonic(), Future(), before)
                threading.Thread(target=_read_into, args=(copy, read.result), daemon=True).start()
                self._reads[folder] = read
                self._reads.move_to_end(folder)
                if len(self._reads) > _MOST_KEPT:
                    self._reads.popitem(last=False)
        try:
            return read.result.result(timeout=_VERSIONS_WAIT_S)
        except FutureTimeout:
            return read.before


def _read_into(copy: ServedCopy, result: Future[ProjectVersions]) -> None:
    found = ProjectVersions(trouble="The versions cannot be read; the log of the backend has details.")
    try:
        found = read_versions(copy)
    finally:
        result.set_result(found)
