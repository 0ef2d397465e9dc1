"""What the code of the commit on PYTHONPATH knows of a state folder, as JSON: `read_state.py FOLDER`.

It imports nothing of this package, because other commits run it; see `python -m tests.upgrade`.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from redis import Redis

from backend.outbox_file import OutboxFile
from plugin_config.local.embedded_redis import embedded_redis
from plugin_config.queue.clicks import ClickQueue
from plugin_config.queue.hints import ProjectHints
from plugin_config.queue.jobs import learn_queue, predict_queue, refresh_queue
from plugin_config.queue.learning import ProjectLearning
from plugin_config.queue.ledger import ProjectLedger
from plugin_config.queue.offers import ProjectOffers
from plugin_config.queue.order import ProjectOrder
from plugin_config.queue.pending import PendingTasks
from plugin_config.queue.quarantine import quarantine_entries
from plugin_config.queue.titles import titles
from plugin_config.queue.totals import Totals
from plugin_config.settings import Settings
from plugin_config.versions.calibrations import CalibrationFile
from plugin_config.versions.manifests import VersionFolder
from plugin_config.versions.served import ServedAdapters
from plugin_config.versions.verdicts import last_verdicts
from worker.segmentation.encoders.encoder import Encoder
from worker.segmentation.segmenter import Segmenter
from worker.service.adapter_store import load_adapter
from worker.service.plain_jobs import check_hash

_ENDS = re.compile(rb"(PXAT\r\n\$13\r\n)[0-9]{13}")  # of a key in Redis' log, in ms


@contextmanager
def served_copy(folder: Path) -> Iterator[tuple[Path, Redis]]:
    """A copy of a state folder and a connection to a server with its Redis file, as long as the `with` block lasts."""
    with tempfile.TemporaryDirectory(prefix="zm-u-") as place:  # a short path: it holds a socket
        state = Path(place) / "state"
        shutil.copytree(folder, state)
        _keep_alive(state)
        address = embedded_redis(state)
        server = subprocess.Popen(address.command.argv, stdout=subprocess.DEVNULL)
        try:
            while address.command.ready is not None and not address.command.ready():
                time.sleep(0.05)
            with Redis.from_url(address.url) as redis:
                yield state, redis
        finally:
            server.kill()
            server.wait()


def _keep_alive(state: Path) -> None:
    """What ends by itself, such as the note of a webhook after a month, is still there however old the file is."""
    for log in state.glob("redis/appendonlydir/*.incr.aof"):
        log.write_bytes(_ENDS.sub(rb"\g<1>" + b"9" * 13, log.read_bytes()))


def read(folder: Path) -> dict[str, Any]:
    """Everything that can be read of the folder; what is known of no project is left out."""
    with served_copy(folder) as (state, redis):
        pending = PendingTasks(redis, drain_tasks=4, lease_s=30)
        found = {
            "projects": {str(project): _project(redis, pending, project) for project in pending.projects()},
            "known": pending.known_projects(),
            "paused": sorted(pending.paused_projects()),
            "jobs": sorted(_jobs(redis)),
            "errors": [[row.project, row.task, row.version, row.reason] for row in pending.last_failures(100)],
            "clicks": [[row.project, row.task, row.reason] for row in ClickQueue(redis).unanswered(100)],
            "totals": {"ended": Totals(redis).ended(),
                       "stages": {name: asdict(row) for name, row in Totals(redis).stages().items()}},
            "outbox": [[row.project, row.version, row.tasks] for row in OutboxFile(state / "asked.jsonl").read()],
            "versions": _versions(state, redis),
            "odd": [row.what for row in quarantine_entries(redis, 100)],
        }  # fmt: skip
    return dict(json.loads(json.dumps(found)))


def _project(redis: Redis, pending: PendingTasks, project: int) -> dict[str, Any]:
    ledger, hints, order = ProjectLedger(redis), ProjectHints(redis), ProjectOrder(redis)
    offers, adapters, progress = ProjectOffers(redis), ServedAdapters(redis), ProjectLearning(redis, lease_s=30)
    answer, learning = offers.answered(project), progress.progress(project)
    failures = {ref.encode(): reason for ref, reason in pending.failures(project).items()}
    return {
        "counts": asdict(pending.counts(project)),
        "open": sorted(ref.encode() for ref in pending.open_refs(project)), "failures": failures,
        "tries": {ref.encode(): pending.tries(project, ref) for ref in sorted(pending.open_refs(project))},
        "versions": sorted(ledger.versions(project)), "target": ledger.target_version(project),
        "rolls_out": ledger.is_rolling_out(project, ledger.target_version(project)),
        "shown": ledger.shown_version(project), "tasks": ledger.task_count(project),
        "leftovers": ledger.leftovers(project), "unconfirmed": sorted(ref.encode() for ref in
                                                                     ledger.unconfirmed(project)),
        "remarks": [ledger.label_remarks_version(project), *ledger.label_remarks(project)],
        "warning": ledger.webhook_warning(project), "webhook": hints.last_webhook(project),
        "hinted": hints.hinted_tasks(project, most=100), "title": titles(redis, [project]).get(project, ""),
        "progress": None if learning is None else asdict(learning),
        "offer": None if answer is None else asdict(answer),
        "served": [asdict(row) for row in adapters.copies(project)],
        "outcomes": adapters.outcomes(project), "judged": adapters.judged(project),
        "verdicts": {name: asdict(row) for name, row in last_verdicts(redis, project).items()},
        "records": {str(task): asdict(row) for task, row in order.records(project)},
        "places": {str(task): asdict(row) for task, row in order.places(project).items()},
        "seen": [sorted(part) for part in order.seen(project)], "mark": asdict(order.seen_mark(project)),
        "basis": order.basis(project),
    }  # fmt: skip


def _jobs(redis: Redis) -> Iterator[str]:
    """Jobs that a worker accepts, or why it does not, by queue."""
    for queue in (predict_queue(redis), refresh_queue(redis), learn_queue(redis)):
        for job in queue.jobs:
            raw: Any = redis.hgetall(job.key)
            check_hash(raw)
            yield f"{queue.name} {job.func_name} {json.dumps(job.args)}"


def _versions(state: Path, redis: Redis) -> dict[str, Any]:
    """What was learned, and whether it loads."""
    copy = ServedAdapters(redis).copy(1, "builtin")
    if copy is None:
        return {}
    settings = Settings(model="builtin", state_dir=str(state))
    folder = VersionFolder(settings.versions_url, copy.owner)
    segmenter = Segmenter(Encoder("builtin", device="cpu"))
    loaded = {name: type(load_adapter(folder, name, segmenter)[1]).__name__ for name in folder.names()}
    manifests = {name: asdict(folder.manifest(name)) for name in folder.names()}
    maps = CalibrationFile(settings.versions_url, copy.owner).read()
    return {"loaded": loaded, "manifests": manifests, "pointer": asdict(folder.pointer()), "maps": maps}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(read(Path(sys.argv[1]).resolve()), indent=1, sort_keys=True) + "\n")
