"""What /metrics answers: counters of this process and a snapshot of the queues, in Prometheus' text format.

Names follow Prometheus' conventions: seconds, `_total` for what only grows, `_info` for what is known of a build. Their
table is in docs/guide/monitoring.md. A server of metrics keeps every series for ever, so none has a label whose values
a client can make up, and their number is bounded.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import fields
from importlib.metadata import version

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4 as CONTENT_TYPE
from prometheus_client.registry import Collector

from backend.queue_client import QueueClient
from backend.queue_snapshot import ProjectSnapshot, QueueSnapshot
from plugin_config.errors import QueueUnavailable
from plugin_config.label_studio.webhook_actions import ACTIONS
from plugin_config.model_version import model_slug
from plugin_config.queue.states import Counts

__all__ = ["CONTENT_TYPE", "Metrics"]

logger = logging.getLogger(__name__)

_MOST_LABELS = 100  # of a project and model, those with most regions
_MOST_PROJECTS = 200  # with series of their own, those with most open tasks
_MOST_REGION_SERIES = 20_000
_SECONDS = (0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 10, 30)  # Label Studio drops a webhook after 1 s, a click after 90


class Metrics:
    """The metrics of one app, in a registry of its own. Safe to share between threads.

    Args:
        queues: asked at each scrape.
        model: the MODEL setting.
    """

    def __init__(self, queues: QueueClient, model: str) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # each counter would have a second series, `_created`
        self._registry = CollectorRegistry()
        self._registry.register(_QueueCollector(queues, model))
        self._requests = Counter(
            "zeromask_http_requests", "Requests answered.", ["route", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "zeromask_http_request_seconds", "Time until a request was answered.", ["route"],
            registry=self._registry, buckets=_SECONDS,
        )  # fmt: skip
        self._webhooks = Counter("zeromask_webhooks", "Webhooks accepted.", ["action"], registry=self._registry)
        outbox = Gauge(
            "zeromask_outbox_tasks", "Tasks requested while Redis did not answer, which wait for it.",
            registry=self._registry,
        )  # fmt: skip
        outbox.set_function(queues.outbox_tasks)

    def count_request(self, route: str, status: int, seconds: float) -> None:
        """Count an answered request.

        Args:
            route: one of the app's, never the path of the request: clients can make up those without end.
            status: of the HTTP answer.
            seconds: until it was answered.
        """
        self._requests.labels(route, status).inc()
        self._seconds.labels(route).observe(seconds)

    def count_webhook(self, action: str) -> None:
        """Count an accepted webhook; actions that Label Studio does not send are counted together, as "other"."""
        self._webhooks.labels(action if action in ACTIONS else "other").inc()

    def text(self) -> bytes:
        """The page that a Prometheus server reads; its type is `CONTENT_TYPE`."""
        return generate_latest(self._registry)


class _QueueCollector(Collector):
    """Asks Redis at each scrape. Without Redis there are no series of the queue: a 0 would scale workers down."""

    def __init__(self, queues: QueueClient, model: str) -> None:
        self._queues = queues
        self._build = {"version": version("zeromask"), "model": model_slug(model)}

    def collect(self) -> Iterator[Metric]:
        snapshot = self._snapshot()
        yield InfoMetricFamily("zeromask_build", "Release and MODEL of this backend.", value=self._build)
        yield _gauge("zeromask_redis_up", "Whether Redis answers.", int(snapshot is not None))
        if snapshot is not None:
            yield from _processes(snapshot)
            yield from _queue(snapshot)
            yield _tasks(snapshot.projects)
            yield _regions(snapshot.projects)

    def _snapshot(self) -> QueueSnapshot | None:
        try:
            return self._queues.snapshot() if self._queues.status().redis else None
        except QueueUnavailable as error:
            logger.warning("metrics: the queue is not counted. %s", error)
            return None


def _processes(snapshot: QueueSnapshot) -> Iterator[Metric]:
    yield _gauge("zeromask_workers", "Workers seen within the last seconds.", snapshot.workers)
    yield _gauge("zeromask_workers_in_trouble", "Those that wait until something is repaired.", snapshot.in_trouble)
    yield _gauge("zeromask_learners", "Learners seen within the last seconds.", snapshot.learners)
    yield _gauge("zeromask_click_workers", "Workers that answer clicks of smart tools.", snapshot.click_workers)


def _queue(snapshot: QueueSnapshot) -> Iterator[Metric]:
    projects = snapshot.projects
    yield _gauge(
        "zeromask_queue_tasks", "Tasks pending or leased, without paused projects: to scale workers by.",
        snapshot.open_tasks,
    )  # fmt: skip
    yield _gauge(
        "zeromask_queue_wait_seconds", "Time since the task that waits longest became due, without paused projects.",
        snapshot.longest_wait_s,
    )  # fmt: skip
    yield _gauge("zeromask_projects", "Projects that ever requested a task.", len(projects))
    yield _gauge("zeromask_projects_paused", "Projects that a person paused.", sum(row.is_paused for row in projects))
    yield _gauge(
        "zeromask_projects_learning_blocked", "Projects whose learning needs a person.",
        sum(row.is_blocked for row in projects),
    )  # fmt: skip
    ended = CounterMetricFamily(
        "zeromask_tasks_ended", "Tasks predicted or failed since Redis was set up.", labels=["outcome"]
    )
    for outcome, count in snapshot.ended.items():
        ended.add_metric([outcome], count)
    yield ended
    stages = SummaryMetricFamily(
        "zeromask_stage_seconds", "Time that tasks took at each stage in a worker.", labels=["stage"]
    )
    for stage, total in snapshot.stages.items():
        stages.add_metric([stage], total.tasks, total.seconds)
    yield stages
    yield CounterMetricFamily(
        "zeromask_webhooks_dropped", "Webhooks dropped because too many unknown projects waited.",
        value=snapshot.dropped_webhooks,
    )  # fmt: skip


def _tasks(projects: Iterable[ProjectSnapshot]) -> GaugeMetricFamily:
    """Tasks by project; those of projects that anyone may have invented, and of too many, stand together."""
    tasks = GaugeMetricFamily("zeromask_tasks", "Tasks asked for, by project and state.", labels=["project", "state"])
    together: dict[str, list[Counts]] = {}
    for number, row in enumerate(_busiest_first(projects)):
        name = "unknown" if not row.is_known else str(row.project) if number < _MOST_PROJECTS else "other"
        together.setdefault(name, []).append(row.counts)
    for name, rows in sorted(together.items()):
        for state in fields(Counts):
            tasks.add_metric([name, state.name], sum(getattr(counts, state.name) for counts in rows))
    return tasks


def _regions(projects: Iterable[ProjectSnapshot]) -> GaugeMetricFamily:
    regions = GaugeMetricFamily(
        "zeromask_regions", "Regions in the annotations last learned from, by what annotators did with them.",
        labels=["project", "model", "label", "outcome"],
    )  # fmt: skip
    for row in _busiest_first(projects)[:_MOST_PROJECTS]:
        for model, labels in sorted(row.outcomes.items()):
            for label in sorted(labels, key=lambda label: -sum(labels[label].values()))[:_MOST_LABELS]:
                if len(regions.samples) >= _MOST_REGION_SERIES:
                    return regions
                for outcome, count in labels[label].items():
                    regions.add_metric([str(row.project), model, label, outcome], count)
    return regions


def _busiest_first(projects: Iterable[ProjectSnapshot]) -> list[ProjectSnapshot]:
    """Those that Label Studio has before the others, and of these those with most open tasks; otherwise by id."""
    return sorted(projects, key=lambda row: (not row.is_known, -(row.counts.pending + row.counts.leased), row.project))


def _gauge(name: str, meaning: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, meaning, value=value)
