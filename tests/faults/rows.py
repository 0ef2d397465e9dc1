"""The faults, one function each: break it for real, then count. `scale` 1.0 is the whole table, less is the short form.

Each makes sure that what it breaks was really broken, or raises.
"""

from __future__ import annotations

import os
import random
import re
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psutil

from plugin_config.local.supervisor import free_port
from plugin_config.vocabulary import parse_vocabulary
from tests.faults.proxy import faulty_proxy
from tests.faults.shim import Shim
from tests.faults.stand import LabelStudioServer, Row, Serving, Stand, quiet, stand, wait_for
from tests.house import CONFIG, picture, tasks, upload
from tests.http_server import Answer, Asked, serving

Fault = Callable[[LabelStudioServer, float], Row]


def worker_killed(server: Serving, scale: float) -> Row:
    """kill -9 of a worker that holds tasks, again and again, two workers."""
    kills, wave, chance = max(2, round(20 * scale)), 12, random.Random(7)
    with stand(server, workers=2) as it:
        project = it.project(kills * wave, name="killed")
        ids = it.task_ids(project)
        for number in range(kills):
            it.ask(project, ids[number * wave : (number + 1) * wave])
            killed = False
            while not killed:
                victim = _working(it)
                time.sleep(chance.uniform(0, 0.6))
                killed = it.kill(victim)
        note = f"{kills} x kill -9 of a worker that held tasks, at random moments; two workers, real Label Studio"
        return it.count("worker kill -9", project, ids, note=note)


def redis_killed(server: Serving, scale: float) -> Row:
    """kill -9 of Redis in the middle, and tasks asked for while it is away."""
    kills, wave = max(1, round(3 * scale)), 16
    with stand(server) as it:
        project = it.project(kills * wave, name="redis")
        ids = it.task_ids(project)
        for number in range(kills):
            part = ids[number * wave : (number + 1) * wave]
            it.ask(project, part[: wave // 2])
            it.wait_at_work()
            it.kill("redis")
            it.ask(project, part[wave // 2 :])
            wait_for(lambda: quiet(it.at_work) >= 0, within_s=60, told="Redis")
        kept = it.log("backend").count("wait for Redis")
        note = (f"{kills} x kill -9 of a real Redis (append-only file) with tasks leased; half of the tasks asked for "
                f"right after ({kept} requests kept by the backend until it was back); real Label Studio")  # fmt: skip
        return it.count("Redis kill and restart", project, ids, note=note)


def label_studio_stopped(server: LabelStudioServer, scale: float) -> Row:
    """Label Studio is killed in the middle and comes back later."""
    away_s, tasks_asked = max(8.0, 60 * scale), max(24, round(60 * scale))
    with stand(server) as it:
        project = it.project(tasks_asked, name="stopped")
        ids = it.task_ids(project)
        it.ask(project, ids)
        wait_for(lambda: it.house.pending.counts(project).done > 4, within_s=90, told="the first predictions")
        server.stop()
        try:
            time.sleep(away_s)
            counts = it.house.pending.counts(project)
        finally:
            server.start()
        waited = counts.pending + counts.leased
        if not waited:
            raise AssertionError("nothing waited for Label Studio")
        note = (f"real Label Studio killed with -9 for {away_s:.0f} s and its start; {counts.done} were done, {waited} "
                f"waited, {counts.failed} failed meanwhile")  # fmt: skip
        return it.count("Label Studio stopped", project, ids, note=note)


def answers_lost(server: Serving, scale: float) -> Row:
    """500s, and posts that arrive although their answer does not, at once or late."""
    with faulty_proxy(server.url, seed=3) as proxy, stand(server, through=proxy.url) as it:
        project = it.project(max(24, round(80 * scale)), name="lost answers")
        ids = it.task_ids(project)
        it.ask(project, ids)
        row = it.count("500s and lost answers", project, ids, note="", within_s=400,
                       late=lambda: proxy.posts_on_their_way)  # fmt: skip
        removed = len(re.findall(r"had arrived \d+ times", it.log("worker-1")))
        done = ", ".join(f"{count} {fault}" for fault, count in sorted(proxy.done.items()))
        note = f"HTTP proxy before a real Label Studio; posts: {done}; {removed} twice stored, found and removed"
        return Row(**{**row.__dict__, "note": note})


def backend_restarted(server: Serving, scale: float) -> Row:
    """kill -9 and SIGTERM of the backend while it reads and answers a request; whoever asked asks again."""
    rounds, wave = max(2, round(4 * scale)), 12
    with stand(server) as it:
        project = it.project(rounds * wave, name="backend")
        ids = it.task_ids(project)
        broken = 0
        for number in range(rounds):
            part = ids[number * wave : (number + 1) * wave]
            answered: list[bool] = []
            asking = threading.Thread(target=_ask_with_a_large_body, args=(it, project, part, answered))
            asking.start()
            time.sleep(0.05 + 0.1 * number)
            os.kill(it.house.supervisor.pid("backend"), signal.SIGKILL if number % 2 == 0 else signal.SIGTERM)
            asking.join()
            if not answered[0]:
                broken += 1
                it.ask(project, part)
        if not broken:
            raise AssertionError("no request was broken off")
        note = (f"{rounds} x kill -9 or SIGTERM during a /predict of 20 MB sent as Label Studio does; {broken} broke "
                "off and were sent again, as its user does")  # fmt: skip
        return it.count("backend restart mid-request", project, ids, note=note)


def disk_full(server: Serving, scale: float) -> Row:
    """Every write to a file fails for Redis, backend and worker for a while."""
    full_s = max(5.0, 20 * scale)
    with tempfile.TemporaryDirectory() as folder:
        shim = Shim(Path(folder))
        with stand(server, env=shim.env) as it:
            project = it.project(max(24, round(60 * scale)), name="disk")
            ids = it.task_ids(project)
            it.ask(project, ids[: len(ids) // 2])
            it.wait_at_work()
            shim.fill_disk(True)
            it.ask(project, ids[len(ids) // 2 :])
            time.sleep(full_s)
            before = quiet(lambda: it.house.pending.counts(project).done)
            shim.fill_disk(False)
            if before == len(ids) // 2:
                raise AssertionError("the disk was full too late")
            note = (
                f"write() of files answers ENOSPC for {full_s:.0f} s to Redis (append-only file), backend and worker "
                "(logs), by a preloaded library; embeddings are cached in memory; real Label Studio"
            )
            return it.count("full disk", project, ids, note=note)


def image_hosts(server: Serving, scale: float) -> Row:
    """Images on hosts that are slow, never finish, answer 503, or are not there, beside good ones."""
    each = max(3, round(8 * scale))
    content = picture(top=30)

    def answer(asked: Asked) -> Answer:
        if asked.path.startswith("/slow"):
            return Answer(body=content, pieces=10, pause_s=0.15)
        if asked.path.startswith("/endless"):
            return Answer(body=content, pieces=len(content), pause_s=1.0)
        return Answer(status=503)

    with serving(answer) as host, stand(server, allow_private_images=True, image_timeout_s=3.0) as it:
        project = it.project(2 * each, name="hosts")
        urls = [f"{host.url}/{kind}/{number}.png" for kind in ("slow", "endless", "busy") for number in range(each)]
        urls += [f"http://127.0.0.1:{free_port()}/{number}.png" for number in range(each)]
        it.house.label_studio.request("POST", f"/api/projects/{project}/import", json=[{"image": url} for url in urls])
        ids = it.task_ids(project)
        it.ask(project, ids)
        note = (
            f"real HTTP servers: {each} images that take 1.5 s, {each} that never end, {each} answered 503, {each} "
            f"where nobody listens, beside {2 * each} good ones; the last three kinds fail with their reason"
        )
        row = it.count("slow and dead image hosts", project, ids, note=note)
        if row.failed != 3 * each:
            raise AssertionError(f"{row.failed} failed, not the {3 * each} that could not be had: {row}")
        return row


def webhooks_repeated(server: Serving, scale: float) -> Row:
    """Every webhook ten times, at once, with new tasks predicted by themselves, and every request too."""
    with stand(server, prelabel=True) as it:
        project = it.project(max(12, round(40 * scale)), name="webhooks")
        ids = it.task_ids(project)
        rows = [{"id": task} for task in ids]
        bodies = [{"action": action, "project": {"id": project}, "tasks": rows}
                  for action in ("TASKS_CREATED", "PROJECT_UPDATED", "TASKS_DELETED") for _ in range(10)]  # fmt: skip
        url = f"{it.house.services.backend_url}/webhook"
        calls: list[Callable[[], object]] = [
            *(partial(httpx.post, url, json=body, timeout=20, trust_env=False) for body in bodies),
            *(lambda: it.ask(project, ids) for _ in range(10)),
        ]
        threads = [threading.Thread(target=call) for call in random.Random(1).sample(calls, len(calls))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        upload(it.house, project, [picture(top=5)] * 4)  # nobody asks for these
        wait_for(lambda: len(tasks(it.house, project)) == len(ids) + 4, within_s=60, told="new tasks")
        ids = it.task_ids(project)
        wait_for(lambda: all(task.versions for task in tasks(it.house, project)), within_s=90)
        note = ("TASKS_CREATED, PROJECT_UPDATED, TASKS_DELETED and /predict ten times each at once, and Label Studio's "
                "own webhooks; 4 tasks nobody asked for (ZEROMASK_PRELABEL)")  # fmt: skip
        return it.count("duplicate webhooks", project, ids, note=note)


def clock_jumped(server: Serving, scale: float) -> Row:
    """The wall clock of every process leaps hours ahead and back, and a worker dies in between."""
    leaps = [3600, -7200, 86_400, 0][: max(2, round(4 * scale))]
    with tempfile.TemporaryDirectory() as folder:
        shim = Shim(Path(folder))
        with stand(server, env=shim.env) as it:
            project = it.project(16 * len(leaps), name="clock")
            ids = it.task_ids(project)
            for number, leap in enumerate(leaps):
                it.ask(project, ids[number * 16 : number * 16 + 16])
                it.wait_at_work()
                shim.set_clock(leap)
                if number == 1:
                    it.kill("worker-1")
            # Valkey looks at the clock ten times a second and tells in between what it saw.
            wait_for(lambda: abs(it.house.redis.time()[0] - time.time() - leaps[-1]) < 60, within_s=10,
                     told="the clock leap in Redis")  # fmt: skip
            told = ", ".join(f"{leap:+d}" for leap in leaps)
            note = (f"wall clock off by {told} s in turn, for Redis, backend and worker, by a preloaded library; one "
                    "kill -9 after the leap back; real Label Studio")  # fmt: skip
            return it.count("clock jump", project, ids, note=note)


def memory_short(server: Serving, scale: float) -> Row:
    """The worker's address space is capped, closer every time, until a batch does not fit any more."""
    rooms, wave = (192, 128, 96, 64, 48, 32, 16), 16
    # At this size a batch's layer is too large for the allocator to keep: it asks the system for memory every time.
    with stand(server, drain_tasks=wave, batch=wave, short_side=320) as it:
        project = it.project(0, name="memory")
        ids: list[int] = []
        worker = psutil.Process(it.house.supervisor.pid("worker-1"))
        for number, room in enumerate((None, *rooms)):  # first two alone: they map what the worker needs anyway
            count = 2 if room is None else wave
            pictures = [picture(top=1 + (number * wave + index) % 96) for index in range(count)]
            upload(it.house, project, pictures)  # new ones: what was seen before costs no memory
            fresh = [task for task in it.task_ids(project) if task not in ids]
            ids += fresh
            if room is not None:
                cap = worker.memory_info().vms + room * 1_000_000
                worker.rlimit(psutil.RLIMIT_AS, (cap, psutil.RLIM_INFINITY))
            it.ask(project, fresh)
            wait_for(partial(_all_done_or_short, it, project, len(ids)), within_s=30)
            worker.rlimit(psutil.RLIMIT_AS, (psutil.RLIM_INFINITY, psutil.RLIM_INFINITY))
            if any(_memory_told(it)):
                break
        split, alone = _memory_told(it)
        if not split + alone:
            raise AssertionError("everything fitted")
        note = (f"address space of the worker capped at what it uses and {room} MB (RLIMIT_AS): {split} batches were "
                f"repeated in halves, {alone} images tried again later; real Label Studio")  # fmt: skip
        return it.count("out-of-memory in a batch", project, ids, note=note)


FAULTS: tuple[Fault, ...] = (
    worker_killed, redis_killed, label_studio_stopped, answers_lost, backend_restarted, disk_full, image_hosts,
    webhooks_repeated, clock_jumped, memory_short,
)  # fmt: skip


def _working(it: Stand) -> str:
    """A worker that holds tasks now."""
    found: list[str] = []

    def look() -> bool:
        pids = {str(it.house.supervisor.pid(name)): name for name in it.workers if it.lives(name)}
        for project in it.house.pending.projects():
            leases: Any = it.house.redis.hvals(f"zeromask:{project}:leases")
            for lease in leases:
                pid = bytes(lease).decode().split("|")[0].rsplit("-", 2)[1]
                if pid in pids:
                    found.append(pids[pid])
        return bool(found)

    wait_for(look, within_s=90, told="a worker that holds tasks")
    return found[0]


def _memory_told(it: Stand) -> tuple[int, int]:
    """How many batches and how many images alone did not fit."""
    told = it.log("worker-1")
    return told.count("in halves"), told.count("does not fit the memory")


def _all_done_or_short(it: Stand, project: int, number: int) -> bool:
    return quiet(lambda: it.house.pending.counts(project).done) >= number or any(_memory_told(it))


def _ask_with_a_large_body(it: Stand, project: int, ids: list[int], answered: list[bool]) -> None:
    padding = "x" * (20_000_000 // len(ids))
    config = CONFIG.format(more="")
    assert parse_vocabulary(config).labels
    body = {"project": f"{project}.1", "label_config": config, "params": {"context": None},
            "tasks": [{"data": {"text": padding}, "id": task} for task in ids]}  # fmt: skip
    try:
        answer = httpx.post(f"{it.house.services.backend_url}/predict", json=body, timeout=60, trust_env=False)
        answered.append(answer.status_code == 200)
    except httpx.TransportError:
        answered.append(False)
