"""Checks of Redis and of the processes that meet there: backend, workers, learner."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import httpx

from plugin_config.doctor.findings import Finding, ok, warning, wrong
from plugin_config.doctor.installation import Installation
from plugin_config.errors import QueueUnavailable, SettingsError, ZeromaskError
from plugin_config.queue.connection import redis_errors
from plugin_config.queue.contract import CONTRACT, contract_of, contract_remark
from plugin_config.queue.presence import WorkerPresence, WorkerState

_FULL = 0.9
_MEND = "Mend what it names. No task is lost meanwhile."
_SAME_RELEASE = "Give all parts the same release of zeromask; nothing is lost meanwhile."
_MODEL_CLASS = "PreannotationBackend"


def check_redis(installation: Installation) -> Iterator[Finding]:
    """Redis answers."""
    settings = installation.settings
    try:
        server = _info(installation, "server")
    except (QueueUnavailable, SettingsError) as error:
        remedy = error.remedy
        if not settings.redis_url:
            remedy = (
                "Start `zeromask up`, which runs a Redis; or set REDIS_URL, or ZEROMASK_STATE_DIR as the running "
                "Zeromask has it."
            )
        yield wrong(f"{error.subject} {error.problem}", remedy)
        return
    name = "Valkey" if server.get("valkey_version") else "Redis"
    yield ok(f"{name} {server.get('valkey_version') or server.get('redis_version', '?')} answers")


def check_redis_memory(installation: Installation) -> Iterator[Finding]:
    """Redis never deletes what is queued, and has room."""
    memory = _info(installation, "memory")
    policy, most = str(memory.get("maxmemory_policy", "")), int(memory.get("maxmemory") or 0)
    used = int(memory.get("used_memory") or 0)
    if policy and policy != "noeviction":
        yield wrong(
            f"Redis deletes keys when its memory is full (maxmemory-policy {policy}), requests among them",
            "Set maxmemory-policy noeviction, or give zeromask a Redis of its own.",
        )
    elif most and used > _FULL * most:
        yield warning(
            f"{used / 1e6:.0f} of Redis' {most / 1e6:.0f} MB are in use; beyond, it accepts no requests",
            "Raise maxmemory, or cancel projects whose tasks nobody waits for: `zeromask status`.",
        )
    else:
        yield ok(f"{policy or 'unknown policy'}, {used / 1e6:.0f} MB in use")


def check_redis_persistence(installation: Installation) -> Iterator[Finding]:
    """What is queued survives a restart of Redis."""
    found = _info(installation, "persistence")
    if int(found.get("aof_enabled") or 0):
        if str(found.get("aof_last_write_status", "ok")) != "ok":
            yield wrong("Redis could not write its append-only file", "See Redis' log: its disk may be full.")
        else:
            yield ok("append-only file")
        return
    if str(found.get("rdb_last_bgsave_status", "ok")) != "ok":
        yield wrong("Redis could not write its last snapshot", "See Redis' log: its disk may be full.")
        return
    snapshots = ""
    with suppress(QueueUnavailable):  # not every user may read the configuration
        snapshots = str(redis_errors(lambda: installation.redis.config_get("save"))().get("save", ""))
    remedy = "Set appendonly yes in Redis' configuration."
    if snapshots:
        yield warning(f"Redis writes snapshots only (save {snapshots}): a crash loses what was queued since", remedy)
    else:
        yield warning("Redis writes nothing to disk, as far as it tells: a restart loses what is queued", remedy)


def check_backend(installation: Installation) -> Iterator[Finding]:
    """The backend answers where the settings say, with this sign-in."""
    settings = installation.settings
    url = settings.backend_url
    start = "Start `zeromask up` or `zeromask backend`; logs/backend.log in the state folder says why it ended."
    try:
        answer = installation.ask_backend(url, "/health")
        found = answer.json() if answer.status_code == 200 else {}
        signed = installation.ask_backend(url, "/versions", signed_in=True).status_code
    except (httpx.HTTPError, ValueError) as error:
        yield wrong(
            f"nothing usable answers at {url} ({type(error).__name__})",
            f"{start} If it listens elsewhere, set ZEROMASK_HOST and ZEROMASK_PORT as it has them.",
        )
        return
    if not isinstance(found, dict) or found.get("model_class") != _MODEL_CLASS:
        yield wrong(
            f"another program answers at {url} (HTTP {answer.status_code})",
            "Set ZEROMASK_PORT to a free port and start the backend again.",
        )
        return
    if signed in (401, 429):
        has = "another sign-in than" if settings.signs_in else "a sign-in, and none is in"
        yield wrong(
            f"the backend at {url} has {has} these settings",
            "Run this with the ZEROMASK_USER, ZEROMASK_PASSWORD and ZEROMASK_WEBHOOK_SECRET of the backend.",
        )
        return
    if not found.get("redis"):
        yield wrong(f"the backend at {url} does not reach its Redis", "Give it the REDIS_URL of the workers.")
        return
    contract = contract_of({"contract": str(found.get("contract", ""))})
    if contract != CONTRACT:
        yield warning(f"the backend at {url} has contract {contract}, this installation has {CONTRACT}", _SAME_RELEASE)
        return
    yield ok(f"answers at {url}{', signed in' if settings.signs_in else ''}")


def check_workers(installation: Installation) -> Iterator[Finding]:
    """A worker lives, and has the model of these settings."""
    alive, model = installation.workers, installation.settings.model
    if not alive:
        yield wrong(
            "no worker lives: requests wait in Redis",
            "Start `zeromask up` or `zeromask worker`; logs/worker.log in the state folder says why one ended.",
        )
        return
    for worker in alive:
        if trouble := worker.about.get("trouble"):
            yield warning(f"worker {worker.name}: {trouble}", _MEND)
        if remark := contract_remark(worker.about):
            yield warning(f"worker {worker.name}: {remark}", _SAME_RELEASE)
    models = sorted({worker.about.get("model", "?") for worker in alive})
    if len(models) > 1:
        yield wrong(f"workers have different models: {', '.join(models)}", "Give all of them the same MODEL.")
    elif models != [model]:
        yield warning(
            f"{_counted(alive, 'worker')} with MODEL={models[0]}, and these settings have MODEL={model}",
            "Give backend, workers and this command the same MODEL. Here the workers' one is tried.",
        )
    else:
        devices = ", ".join(sorted({worker.about.get("device", "?") for worker in alive}))
        yield ok(f"{_counted(alive, 'worker')} with MODEL={model} on {devices}")


def check_learner(installation: Installation) -> Iterator[Finding]:
    """A learner lives."""
    alive = WorkerPresence(installation.redis, learners=True).workers()
    if not alive:
        yield warning(
            "no learner lives: nothing is learned from corrections",
            "Start `zeromask up` without --learners 0, or `zeromask worker --queue finetune`.",
        )
        return
    for learner in alive:
        if trouble := learner.about.get("trouble"):
            yield warning(f"learner {learner.name}: {trouble}", _MEND)
            return
        if remark := contract_remark(learner.about):
            yield warning(f"learner {learner.name}: {remark}", _SAME_RELEASE)
            return
    yield ok(_counted(alive, "learner"))


def _info(installation: Installation, section: str) -> Mapping[str, Any]:
    """A section of Redis' INFO. Raises SettingsError, QueueUnavailable."""
    redis = installation.redis
    found: Any = redis_errors(lambda: redis.info(section))()
    if not isinstance(found, Mapping):
        raise ZeromaskError("Redis", "does not tell about itself", "Allow its user the command INFO.")
    return found


def _counted(rows: list[WorkerState], noun: str) -> str:
    return f"{len(rows)} {noun}{'s' if len(rows) > 1 else ''} live{'' if len(rows) > 1 else 's'}"
