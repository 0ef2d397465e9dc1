"""What /metrics answers: counters of this process and a snapshot of the queues, in Prometheus' text format."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import fields

from prometheus_client import CollectorRegistry, Counter, disable_created_metrics, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4 as CONTENT_TYPE
from prometheus_client.registry import Collector

from backend.queue_client import QueueClient
from plugin_config.errors import QueueUnavailable
from plugin_config.label_studio.webhook_actions import ACTIONS
from plugin_config.queue.states import Counts

__all__ = ["CONTENT_TYPE", "Metrics"]

logger = logging.getLogger(__name__)

_MOST_LABELS = 100  # of a project, those with most regions: a server of metrics keeps each series for ever


class Metrics:
    """The metrics of one app, in a registry of its own. Safe to share between threads."""

    def __init__(self, queues: QueueClient) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # each counter would have a second series, `_created`
        self._registry = CollectorRegistry()
        self._registry.register(_QueueCollector(queues))
        self._requests = Counter(
            "zeromask_http_requests", "Requests answered.", ["route", "status"], registry=self._registry
        )
        self._webhooks = Counter("zeromask_webhooks", "Webhooks accepted.", ["action"], registry=self._registry)

    def count_request(self, route: str, status: int) -> None:
        """Count an answered request.

        Args:
            route: one of the app's, never the path of the request: clients can make up those without end.
            status: of the HTTP answer.
        """
        self._requests.labels(route, status).inc()

    def count_webhook(self, action: str) -> None:
        """Count an accepted webhook; actions that Label Studio does not send are counted together, as "other"."""
        self._webhooks.labels(action if action in ACTIONS else "other").inc()

    def text(self) -> bytes:
        """The page that a Prometheus server reads; its type is `CONTENT_TYPE`."""
        return generate_latest(self._registry)


class _QueueCollector(Collector):
    """Asks Redis at each scrape; without Redis there are no series of tasks."""

    def __init__(self, queues: QueueClient) -> None:
        self._queues = queues

    def collect(self) -> Iterator[GaugeMetricFamily]:
        status = self._queues.status()
        yield GaugeMetricFamily("zeromask_redis_up", "Whether Redis answers.", value=int(status.redis))
        yield GaugeMetricFamily("zeromask_workers", "Workers seen within the last seconds.", value=status.workers)
        tasks = GaugeMetricFamily(
            "zeromask_tasks", "Tasks asked for, by project and state.", labels=["project", "state"]
        )
        for project, counts in sorted((self._counts() if status.redis else {}).items()):
            for state in fields(counts):
                tasks.add_metric([str(project), state.name], getattr(counts, state.name))
        yield tasks
        regions = GaugeMetricFamily(
            "zeromask_regions", "Regions in the annotations last learned from, by what annotators did with them.",
            labels=["project", "model", "label", "outcome"],
        )  # fmt: skip
        for project, models in sorted((self._outcomes() if status.redis else {}).items()):
            for model, labels in sorted(models.items()):
                for label in sorted(labels, key=lambda label: -sum(labels[label].values()))[:_MOST_LABELS]:
                    for outcome, count in labels[label].items():
                        regions.add_metric([str(project), model, label, outcome], count)
        yield regions

    def _outcomes(self) -> dict[int, dict[str, Mapping[str, Mapping[str, int]]]]:
        try:
            return self._queues.outcomes()
        except QueueUnavailable as error:
            logger.warning("metrics: regions not counted. %s", error)
            return {}

    def _counts(self) -> dict[int, Counts]:
        try:
            return self._queues.counts()
        except QueueUnavailable as error:
            logger.warning("metrics: tasks not counted. %s", error)
            return {}
