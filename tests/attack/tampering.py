"""Attacks by whoever can write to Redis, or to the files of the state folder."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from redis.exceptions import RedisError
from rq import Callback, Queue
from rq.job import Job
from rq.serializers import DefaultSerializer, JSONSerializer

from plugin_config.model_version import ZEROSHOT, adapter_name
from plugin_config.queue.jobs import DRAIN_JOB, REFRESH_JOB
from plugin_config.versions.manifests import Manifest, Owner, Pointer, VerdictRecord, VersionFolder, now
from tests.attack.ground import Finding, Ground, Row, ground
from tests.attack.watch import seconds_of_health
from tests.faults.stand import Serving, wait_for
from tests.house import CONFIG, current_version, picture

_SEEN_S = 15  # a worker that gives no sign of life for so long counts as dead
_MOST_TRACEBACKS = 5.0
_DEEP = b"[" * 100_000
_POEM = "Beautiful is better than ugly"  # what `import this` prints


def odd_members(server: Serving, scale: float) -> Row:
    """Members that nobody of ours writes, in the sets and lists that all workers read."""
    odd: Any = ["abc", b"\xff\xfe", "-1", "0", "1.5", "9" * 30, "", "1|2", "nan", " 7"]
    with ground(server, learners=1) as it:
        redis, project = it.house.redis, it.project(16, name="odd members")
        ids, version = it.task_ids(project), current_version(it.house, project)
        wait_for(lambda: redis.zcard("zeromask:learners") > 0, within_s=120, told="the learner")

        def act() -> Finding:
            redis.sadd("zeromask:projects", *odd)
            redis.zadd("zeromask:learn", dict.fromkeys(odd, 0))
            redis.sadd("zeromask:paused", *odd)
            redis.sadd("zeromask:projects", 777)
            redis.hset("zeromask:777:leases", mapping=dict.fromkeys(odd, b"dead|1|1"))
            strange: Any = {"v|1": b"\xff\xfe", "v|2": "", "v|3": "a|b|c|d|e", "v|0": "x|1|1"}
            redis.hset("zeromask:777:leases", mapping=strange)
            members: Any = dict.fromkeys([*odd, "v|0", "v|-1", "|3", "v|99999999999"], 0)
            redis.zadd(f"zeromask:{project}:pending", members)
            redis.zadd("zeromask:workers", dict.fromkeys(odd, 1))
            redis.hset("zeromask:about", mapping={b"\xff\xfe": "not json", b"abc": _DEEP})
            it.asked(project, ids[:8])
            started = time.monotonic()
            first = wait_for(lambda: it.predicted(project) >= 8, within_s=30)
            took = time.monotonic() - started
            time.sleep(max(0.0, _SEEN_S + 2 - took))
            signs = _signs(it, "zeromask:workers"), _signs(it, "zeromask:learners")
            swept = _sweeps(it, project, version, ids[8:10])
            evidence = (f"8 tasks whose project has odd members took {f'{took:.1f} s' if first else 'more than 30 s'}; "
                        f"a dead worker's tasks {'were' if swept else 'were not'} taken up; signs of life after "
                        f"{_SEEN_S + 2} s: worker {signs[0]}, learner {signs[1]}.")  # fmt: skip
            return Finding(first and swept and all(signs), evidence)

        return it.attacked("odd members in Redis", act)


def wrong_types(server: Serving, scale: float) -> Row:
    """Keys of the wrong type in one project, and garbage where numbers belong."""
    names = ("pending", "leases", "tries", "deaths", "failed", "versions", "pace", "hinted", "refresh", "webhook",
             "adapters", "learner", "learn", "learning", "drain:0", "served")  # fmt: skip
    with ground(server) as it:
        redis, sick = it.house.redis, it.project(0, name="wrong types")
        project = it.project(10, name="after wrong types")
        ids, version = it.task_ids(project), current_version(it.house, project)

        def act() -> Finding:
            for number, name in enumerate(names):
                redis.sadd("zeromask:projects", sick, 1_000_000 + number)
                for key in (f"zeromask:{sick}:{name}", f"zeromask:{1_000_000 + number}:{name}"):
                    redis.delete(key)
                    redis.xadd(key, {"odd": "1"})
            for task in ids[:2]:
                redis.hset(f"zeromask:{project}:deaths", f"{version}|{task}", "garbage")
                redis.hset(f"zeromask:{project}:tries", f"{version}|{task}", b"\xff")
            it.asked(project, ids[:8])
            first = wait_for(lambda: it.predicted(project) >= 8, within_s=30)
            before = it.log("worker").count("Traceback")
            time.sleep(5)
            pace = (it.log("worker").count("Traceback") - before) / 5
            swept = _sweeps(it, project, version, ids[8:])
            evidence = (f"{len(names)} keys of a wrong type in two projects each, garbage counts: 8 tasks of the next "
                        f"project {'were' if first else 'were not'} predicted, a dead worker's tasks "
                        f"{'were' if swept else 'were not'} taken up, {pace:.0f} tracebacks a second.")  # fmt: skip
            return Finding(first and swept and pace <= _MOST_TRACEBACKS, evidence)

        return it.attacked("keys of the wrong type, garbage counts", act)


def forged_jobs(server: Serving, scale: float) -> Row:
    """Jobs of RQ that name functions, callbacks, dependencies and serializers of the attacker's choice."""
    with tempfile.TemporaryDirectory() as folder, ground(server) as it:
        marker, project = Path(folder) / "called", it.project(8, name="forged jobs")

        def act() -> Finding:
            found: Any = it.house.redis.smembers("rq:queues")
            queues = {name.decode().removeprefix("rq:queue:") for name in found}
            made = sum(_forge(it, queue, f"touch {marker}", project) for queue in sorted(queues))
            it.asked(project, it.task_ids(project))
            done = wait_for(lambda: it.predicted(project) == 8, within_s=240)
            time.sleep(3)
            calls = int(marker.exists()) + it.log("worker").count(_POEM)
            evidence = (f"{made} jobs in {len(queues)} queues: {calls} times something of theirs was imported or "
                        f"called; 8 tasks behind them {'were' if done else 'were not'} predicted.")  # fmt: skip
            return Finding(calls == 0 and done, evidence)

        return it.attacked("forged jobs", act)


def damaged_spool(server: Serving, scale: float) -> Row:
    """The file of what was asked for while Redis was away, damaged; then the backend starts."""
    with ground(server) as it:
        project = it.project(8, name="damaged spool")
        ids, version = it.task_ids(project), current_version(it.house, project)
        good = [json.dumps({"project": project, "version": version, "tasks": part}).encode()
                for part in (ids[:4], ids[4:])]  # fmt: skip
        bad = [b"\xff\xfe\x00", _DEEP, b'{"project": 1e999, "version": "v", "tasks": [1]}', b"null", b"7", b"[]",
               b'{"project": 1, "version": "v", "tasks": [1e999]}', b'{"project": 1, "version": "v", "tasks": 7}',
               b'{"project": -1, "version": "v|w", "tasks": [0]}', b"\0" * 1000,
               b'{"project": 1, "version": "\\ud800", "tasks": [1]}',
               b'{"project": ' + b"9" * 5000 + b', "version": "v", "tasks": [1]}',
               b'{"project": NaN, "version": "v", "tasks": [1]}', b'{"project"']  # fmt: skip
        (it.settings.state_path / "asked.jsonl").write_bytes(b"\n".join([good[0], *bad, good[1]]) + b"\n")
        started = time.monotonic()
        os.kill(it.pids()["backend"], signal.SIGKILL)
        back = wait_for(lambda: seconds_of_health(it.url) < 1, within_s=30)
        seconds = time.monotonic() - started
        if not back:
            return Row("a damaged asked.jsonl", False, f"{len(bad)} bad lines: the backend did not start in 30 s.")

        def act() -> Finding:
            done = wait_for(lambda: it.predicted(project) == 8, within_s=30)
            evidence = (f"{len(bad)} bad lines between two good ones: the backend answered {seconds:.1f} s after kill "
                        f"-9; {it.predicted(project)} of the 8 tasks in the good lines predicted.")  # fmt: skip
            return Finding(done, evidence)

        return it.attacked("a damaged asked.jsonl", act)


def damaged_versions(server: Serving, scale: float) -> Row:
    """What tells which learned version is served, damaged in Redis and on disk, and a version full of NaN."""
    owner = '"owner": {"label_studio": "x", "project": 1, "created": "", "model": "builtin"}'
    copies: tuple[Any, ...] = (b"\xff", b"not json", _DEEP, b"{}", b"[]", b"7", b'{"served": 7, "serial": "x"}',
        b'{"served": "a1-000000", "serial": 1, "place": "p", "owner": {}, "trouble": "", "newer": 1}',
        f'{{"served": "|", "serial": 1, "place": "p", {owner}, "trouble": ""}}')  # fmt: skip
    pointers = (_DEEP, b"\xff", b'{"served": "../../..", "serial": 1e999}', b'{"served": "a1-000000", "serial": 1}',
                b"7", b'{"serial": "x", "newer": 1}')  # fmt: skip
    with ground(server) as it:
        project = it.project(4 * len(copies) + 4 * len(pointers) + 4, name="damaged versions")
        ids, redis, api = it.task_ids(project), it.house.redis, it.house.label_studio
        place = Owner(it.settings.label_studio_url, project, api.project(project).created, "builtin")
        folder = VersionFolder(it.settings.versions_url, place)
        setup = {"project": f"{project}.1", "schema": CONFIG.format(more="")}

        def act() -> Finding:
            damages: list[Callable[[], object]] = [
                *(lambda copy=copy: redis.hset(f"zeromask:{project}:adapters", "builtin", copy) for copy in copies),
                *(lambda data=data: _write_pointer(it, place, data) for data in pointers),
                lambda: _serve_nan(it, folder, place),
            ]  # fmt: skip
            statuses: list[int] = []
            for number, damage in enumerate(damages):
                damage()
                part = ids[4 * number : 4 * number + 4]
                statuses += [it.send("/setup", setup).status, it.asked(project, part).status]
            it.wait_ended(project, within_s=60)
            refused, done = sum(status != 200 for status in statuses), it.predicted(project)
            versions = {version for task in api.all_tasks(project) for version in task.versions}
            served = sum(ZEROSHOT not in version for version in versions)
            evidence = (f"{len(copies)} damaged copies in Redis, {len(pointers)} damaged served.json, one version of "
                        f"NaN with a right checksum: of {len(statuses)} requests {refused} refused, of {len(ids)} "
                        f"tasks {done} predicted, {served} of {len(versions)} versions not zero-shot.")  # fmt: skip
            return Finding(not refused and done == len(ids) and not served, evidence)

        return it.attacked("damaged versions", act)


def _signs(it: Ground, key: str) -> bool:
    """Whether somebody gives signs of life there now."""
    now_ms = int(it.house.redis.time()[0]) * 1000
    return wait_for(lambda: it.house.redis.zcount(key, now_ms, "+inf") > 0, within_s=8)


def _sweeps(it: Ground, project: int, version: str, ids: list[int]) -> bool:
    """Whether the tasks of a worker that died are taken up by another."""
    now_ms = int(it.house.redis.time()[0]) * 1000
    for task in ids:
        lease = f"dead-1-aaaaaa|{now_ms - 1000}|{now_ms}"
        it.house.redis.hset(f"zeromask:{project}:leases", f"{version}|{task}", lease)
    it.house.redis.sadd("zeromask:projects", project)
    predictions = it.house.label_studio.predictions
    return wait_for(lambda: all(predictions(task) for task in ids), within_s=25)


def _forge(it: Ground, name: str, command: str, project: int) -> int:
    """Queue forged jobs; returns how many."""
    redis = it.house.redis
    queue = Queue(name, connection=redis, serializer=JSONSerializer)
    pickled = Queue(name, connection=redis, serializer=DefaultSerializer)
    drain, refresh = {"project": project, "slot": 0, "limit": 1}, {"project": project}
    calls: list[tuple[str, tuple[Any, ...]]] = [
        ("os.system", (command,)), ("builtins.eval", (f"__import__('os').system('{command}')",)),
        ("builtins.exec", ("import this",)), ("importlib.import_module", ("this",)),
        ("subprocess.check_output", (command,)), ("this.d", ()), ("worker.tasks.os.system", (command,)),
        ("worker.tasks", ()), ("a" * 10_000, ()),
        (f"{DRAIN_JOB}.__globals__", ()), (DRAIN_JOB, ()), (DRAIN_JOB, ({},)), (DRAIN_JOB, (7,)), (DRAIN_JOB, ("x",)),
        (DRAIN_JOB, ({**drain, "limit": 10**12},)), (DRAIN_JOB, ({**drain, "project": -1},)),
        (DRAIN_JOB, ({**drain, "slot": "0"},)), (DRAIN_JOB, (drain, drain)), (REFRESH_JOB, ({"project": 10**30},)),
        (REFRESH_JOB, ({**refresh, "newer": 1},)), (REFRESH_JOB, ([refresh],)),
    ]  # fmt: skip
    made = [queue.enqueue_call(function, args=args, timeout=30) for function, args in calls]
    callbacks = [{kind: Callback(function)} for kind in ("on_success", "on_failure", "on_stopped")
                 for function in ("this.d", "os.system", "worker.tasks.drain_project")]  # fmt: skip
    made += [queue.enqueue_call(REFRESH_JOB, args=args, timeout=30, **callback)  # type: ignore[arg-type]
             for args in ((refresh,), ("x",)) for callback in callbacks]  # fmt: skip
    made.append(pickled.enqueue_call("os.system", args=(command,), timeout=30))
    made.append(pickled.enqueue_call(REFRESH_JOB, args=(refresh,), timeout=30))
    made.append(queue.enqueue_call("os.system", args=(command,), depends_on=made[0], timeout=30))
    first = queue.enqueue_call(REFRESH_JOB, args=(refresh,), timeout=30)
    made += [first, queue.enqueue_call("this.d", args=(), depends_on=first, timeout=30)]
    return len(made) + _break_jobs(it, queue, refresh)


def _break_jobs(it: Ground, queue: Queue, refresh: dict[str, int]) -> int:
    """Queue jobs whose record is damaged, missing, or named by no text; returns how many."""
    damages: list[Any] = [
        {"data": b"\xff\xfe"}, {"data": _DEEP}, {"data": b"[]"}, {"created_at": "never"}, {"timeout": "long"},
        {"success_callback_name": "this.d", "success_callback_timeout": "x"}, {"dependency_ids": "not json"},
        {"retries_left": "many"}, {"meta": b"\xff"}, {"status": "odd"}, {"origin": "elsewhere"},
    ]  # fmt: skip
    for fields in damages:
        job = Job.create(REFRESH_JOB, args=(refresh,), connection=it.house.redis, serializer=JSONSerializer, timeout=30)
        job.origin = queue.name
        job.save()
        it.house.redis.hset(job.key, mapping=fields)
        queue.push_job_id(job.id)
    it.house.redis.rpush(queue.key, b"\xff\xfe", "nobody", "")
    with suppress(RedisError):
        it.house.redis.set("rq:job:text", "no hash")
        queue.push_job_id("text")
    return len(damages) + 4


def _write_pointer(it: Ground, owner: Owner, data: bytes) -> None:
    it.house.redis.delete(f"zeromask:{owner.project}:adapters")
    path = Path(it.settings.versions_url) / owner.folder / "served.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _serve_nan(it: Ground, folder: VersionFolder, owner: Owner) -> None:
    """Write a version as the learner does, each of whose numbers is NaN, and point to it."""
    import torch
    from safetensors.torch import save

    from worker.segmentation.encoders.encoder import Encoder
    from worker.segmentation.segmenter import Segmenter

    state = _learned(Segmenter(encoder := Encoder("builtin", device="cpu")))
    data = save({name: torch.full_like(values, float("nan")) if values.is_floating_point() else values.clone()
                 for name, values in state.tensors.items()})  # fmt: skip
    told = hashlib.sha256(data).hexdigest()
    name = adapter_name(1, told)
    manifest = Manifest(name, owner, encoder.fingerprint, state.recipe, dict(state.about), ZEROSHOT, now(), "d", ("1",),
                        VerdictRecord(True, "promoted", {}), told, len(data))  # fmt: skip
    _write_pointer(it, owner, b"{}")
    folder.add(manifest, data)
    folder.point(Pointer(served=name, serial=10**6, newest=1))
    it.house.redis.delete(f"zeromask:{owner.project}:adapters")


def _learned(segmenter: Any) -> Any:
    """The state of an adapter learned from one picture."""
    import io

    import numpy as np
    from PIL import Image

    from worker.learning.interfaces import UNLABELLED, Example
    from worker.learning.recipes import recipe_named

    image = np.array(Image.open(io.BytesIO(picture(top=20))).convert("RGB"))
    truth = np.full(image.shape[:2], UNLABELLED, dtype=np.int16)
    words = (("red shape",), ("blue shape",), ("green shape",))
    for number, left in enumerate((8, 70, 132)):
        truth[20:67, left : left + 47] = number
    example = Example("1", image, segmenter.embed([image])[0], words, truth)
    return recipe_named("quick").fit([example], words, segmenter).at_strength(0.5).state()
