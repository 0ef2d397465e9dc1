"""Four workers on two hosts, of which one is killed and one is cut off from the network and comes back."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

from plugin_config.capacity import Shift, StageSeconds, seconds_for, seconds_in_shifts
from plugin_config.local.supervisor import Command, module_command
from plugin_config.overview.control import QueueControl
from plugin_config.queue.presence import WorkerPresence
from plugin_config.queue.totals import StageTotal, Totals
from tests.faults.link import Link, link
from tests.faults.stand import Row, Serving, Stand, stand, wait_for
from worker.service.queue_worker import PlainWorker

ROOT = Path(__file__).resolve().parents[2]
HOSTS = ("north", "south")
EMBED_S, QUICK_S = 2.0, 0.4
"""Seconds that the stand-in of a GPU takes for an image, in the whole table and in the short form. So long that the two
cores, which all processes and Label Studio share, are not what is measured."""

MOST_OFF = 0.2
"""How far the measured time may be from the predicted one, as a share of it."""

_STARTS_S, _ENDS_S = 600.0, 600.0
_LOOKED_S = 3.0  # after it has tried Redis again, a worker has looked for jobs


@dataclass(frozen=True)
class FleetWorker:
    """One worker: the name of its process, and its own links to Redis and to Label Studio."""

    name: str
    host: str
    redis: Link
    label_studio: Link

    def cut(self) -> None:
        """Cut it off from everything."""
        self.redis.cut()
        self.label_studio.cut()

    def mend(self) -> None:
        """Let it be reached again, and reach."""
        self.label_studio.mend()
        self.redis.mend()

    @property
    def held(self) -> int:
        """Bytes on their way that wait for the network."""
        return self.redis.held + self.label_studio.held


class Fleet:
    """Workers on several hosts beside a stand that has none of its own. Made in a `with` block by `fleet`."""

    def __init__(self, it: Stand, links: ExitStack, embed_s: float) -> None:
        self.it, self._embed_s = it, embed_s
        self.workers: list[FleetWorker] = []
        self._links = links
        self._presence = WorkerPresence(it.house.redis)

    def launch(self, host: str) -> FleetWorker:
        """Start a worker on a host. It shares its host's state folder, and nothing with other hosts."""
        services, server = self.it.house.services, urlsplit(self.it.settings.label_studio_url)
        redis = urlsplit(services.redis_url)
        near = self._links.enter_context(link(unquote(redis.path)))
        far = self._links.enter_context(link((str(server.hostname), int(server.port or 80))))
        worker = FleetWorker(f"worker-{len(self.workers) + 1}", host, near, far)
        told = replace(
            self.it.settings, state_dir=str(Path(self.it.settings.state_dir) / host),
            redis_url=f"redis://:{redis.password}@127.0.0.1:{near.port}/0",
            label_studio_url=f"http://127.0.0.1:{far.port}",
        )  # fmt: skip
        env = {**told.environment("worker"), "STAND_IN_HOST": host, "STAND_IN_EMBED_S": str(self._embed_s),
               "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}  # fmt: skip
        self.it.house.supervisor.launch(Command(worker.name, module_command("tests.faults.sleeping"), env))
        self.workers.append(worker)
        return worker

    def wait_ready(self) -> None:
        """Wait until all have loaded and are seen."""
        wait_for(lambda: self._presence.count() == len(self.workers), within_s=_STARTS_S, told="the workers")

    def hosts(self) -> set[str]:
        """Hosts of the workers that live, as `zeromask status` shows them."""
        return {state.name.split("-")[0] for state in self._presence.workers()}

    def age_s(self, worker: FleetWorker) -> float:
        """Seconds since a worker gave its last sign of life."""
        part = f"-{self.it.house.supervisor.pid(worker.name)}-"
        return min((state.age_s for state in self._presence.workers() if part in state.name), default=float("inf"))

    def kill(self, worker: FleetWorker) -> None:
        """kill -9, for good: its host does not come back."""
        os.kill(self.it.house.supervisor.pid(worker.name), signal.SIGKILL)
        self.it.house.supervisor.end(worker.name)

    def stored(self, worker: FleetWorker) -> int:
        """How many predictions a worker says that it stored."""
        return len(re.findall(r"task \d+: \d+ regions, version", self.it.log(worker.name)))


@contextmanager
def fleet(server: Serving, embed_s: float) -> Iterator[Fleet]:
    """A stand without workers, and a fleet that has none yet. `embed_s`: seconds an image."""
    with (
        stand(server, workers=0, drain_tasks=2, batch=2, order=False) as it,
        ExitStack() as links,
    ):
        yield Fleet(it, links, embed_s)


def worker_cut_off(server: Serving, scale: float) -> Row:
    """Four workers on two hosts: one killed, one cut off for a while; and the time that this was predicted to take."""
    alone, together = max(6, round(20 * scale)), max(40, round(160 * scale))
    embed_s = EMBED_S if scale >= 1 else QUICK_S
    with fleet(server, embed_s) as them:
        it = them.it
        project = it.project(alone + together, name="cut off")
        ids = it.task_ids(project)
        them.launch(HOSTS[0])
        them.wait_ready()
        stages = _measured(them, project, ids[:alone])
        for host in (HOSTS[0], HOSTS[1], HOSTS[1]):
            them.launch(host)
        them.wait_ready()
        if them.hosts() != set(HOSTS):
            raise AssertionError(f"workers of {them.hosts()} are seen")
        victim, lonely = them.workers[1], them.workers[3]
        shifts, took_s, swept = _run(them, project, ids[alone:], victim, lonely)
        predicted_s = seconds_in_shifts(together, shifts, stages)
        undisturbed_s = seconds_for(together, 4, stages)
        wait_for(lambda: lonely.held == 0, within_s=60, told="what waited for the network")
        note = (
            f"4 worker processes on 2 hosts (own host names, state folders, and TCP links to Redis and Label Studio), "
            f"a pause of {embed_s} s an image in place of the GPU; after {shifts[1].from_s:.0f} s one killed with -9 "
            f"for good, after {shifts[2].from_s:.0f} s one cut off for {shifts[3].from_s - shifts[2].from_s:.0f} s; "
            f"{swept} tasks of theirs went to others; {together} tasks took {took_s:.0f} s, predicted "
            f"{predicted_s:.0f} s from the stage times of one worker alone ({undisturbed_s:.0f} s, had nothing "
            f"happened); real Label Studio"
        )
        row = it.count("one of four killed, one cut off", project, ids, note=note, within_s=_ENDS_S)
        if scale >= 1 and abs(took_s - predicted_s) > MOST_OFF * predicted_s:
            raise AssertionError(f"took {took_s:.0f} s, predicted {predicted_s:.0f} s: {row}")
        return row


def _measured(them: Fleet, project: int, ids: list[int]) -> StageSeconds:
    """Stage times of one worker alone, over these tasks."""
    totals = Totals(them.it.house.redis)
    them.it.ask(project, ids)
    wait_for(lambda: _done(them, project) == len(ids), within_s=_ENDS_S, told="the tasks of one worker")
    found = totals.stages()
    return StageSeconds(**{stage: _mean(total) for stage, total in found.items()})


def _mean(total: StageTotal) -> float:
    return total.seconds / total.tasks


def _done(them: Fleet, project: int) -> int:
    return them.it.house.pending.counts(project).done


def _run(
    them: Fleet, project: int, ids: list[int], victim: FleetWorker, lonely: FleetWorker
) -> tuple[list[Shift], float, int]:
    """Kill one when a fifth is done, cut one off at two fifths, mend that at three and a half. Returns how many workers
    ran from when on, how long all took, and how many tasks were taken from the two.
    """
    it, control = them.it, QueueControl(them.it.house.redis, them.it.settings)
    before = _done(them, project)

    def wait_done(share: float) -> None:
        told = f"{share:.0%} of the tasks"
        wait_for(lambda: _done(them, project) - before >= share * len(ids), within_s=_ENDS_S, told=told)

    control.pause(project)  # so that all begin at the same moment
    it.ask(project, ids)
    wait_for(lambda: it.house.pending.counts(project).pending == len(ids), within_s=60, told="the requests")
    started = time.monotonic()
    control.resume(project)
    shifts = [Shift(0.0, 4)]
    wait_done(0.2)
    them.kill(victim)
    shifts.append(Shift(time.monotonic() - started, 3))
    wait_done(0.4)
    lonely.cut()
    shifts.append(Shift(time.monotonic() - started, 2))
    at_cut = them.stored(lonely)
    wait_done(0.7)
    control.pause(project)  # else the others may be through before the one that was cut off is there again
    wait_for(lambda: _swept(them) >= 2, within_s=120, told="the end of leases")  # the cut must last that long
    lonely.mend()
    mended = time.monotonic()
    wait_for(lambda: them.age_s(lonely) < time.monotonic() - mended, within_s=120, told="the one that was cut off")
    # It gives signs of life at once, and looks for jobs when it tries Redis again: the others may be through by then.
    time.sleep(max(0.0, mended + PlainWorker.max_connection_wait_time + _LOOKED_S - time.monotonic()))
    control.resume(project)
    shifts.append(Shift(time.monotonic() - started, 3))
    wait_for(lambda: _done(them, project) - before >= len(ids), within_s=_ENDS_S, told="all tasks")
    took_s = time.monotonic() - started
    if them.stored(lonely) <= at_cut:
        raise AssertionError("the worker that was cut off did not work again")
    return shifts, took_s, _swept(them)


def _swept(them: Fleet) -> int:
    """How many tasks of the dead worker and of the one cut off went to others."""
    return sum(them.it.log(worker.name).count("its worker is gone") for worker in them.workers)
