"""What /metrics answers: counters of this process and a snapshot of the queues, in Prometheus' text format.

It must not know the web framework or Redis.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from plugin_config.queue.states import Counts

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class RequestCounter:
    """Counts answered requests since the process started. Safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, int]] = Counter()
        self._webhooks: Counter[str] = Counter()

    def count_request(self, route: str, status: int) -> None:
        """`route` is a rule of the app, never the address asked for: anyone could make those up without end."""
        with self._lock:
            self._requests[route, status] += 1

    def count_webhook(self, action: str) -> None:
        """`action` is one of a known few, for the same reason."""
        with self._lock:
            self._webhooks[action] += 1

    def requests(self) -> dict[tuple[str, int], int]:
        """(route, HTTP status) -> answers so far."""
        with self._lock:
            return dict(self._requests)

    def webhooks(self) -> dict[str, int]:
        """Action -> webhooks so far."""
        with self._lock:
            return dict(self._webhooks)


def render(counter: RequestCounter, *, redis_up: bool, workers: int, tasks: Mapping[int, Counts]) -> str:
    """The page a Prometheus server reads."""
    lines = [
        *_family("redis_up", "gauge", "Whether Redis answers.", [("", int(redis_up))]),
        *_family("workers", "gauge", "Workers seen within the last seconds.", [("", workers)]),
        *_family("tasks", "gauge", "Tasks asked for, by project and state.", _task_rows(tasks)),
        *_family("http_requests_total", "counter", "Requests answered.", _request_rows(counter)),
        *_family("webhooks_total", "counter", "Webhooks accepted.", _webhook_rows(counter)),
    ]
    return "\n".join(lines) + "\n"


def _family(name: str, kind: str, meaning: str, rows: Iterable[tuple[str, int]]) -> Iterator[str]:
    yield f"# HELP zeromask_{name} {meaning}"
    yield f"# TYPE zeromask_{name} {kind}"
    for labels, value in rows:
        yield f"zeromask_{name}{labels} {value}"


def _task_rows(tasks: Mapping[int, Counts]) -> Iterator[tuple[str, int]]:
    for project, counts in sorted(tasks.items()):
        states = {"pending": counts.pending, "leased": counts.leased, "failed": counts.failed, "done": counts.done}
        for state, value in states.items():
            yield f'{{project="{project}",state="{state}"}}', value


def _request_rows(counter: RequestCounter) -> Iterator[tuple[str, int]]:
    for (route, status), value in sorted(counter.requests().items()):
        yield f'{{route="{route}",status="{status}"}}', value


def _webhook_rows(counter: RequestCounter) -> Iterator[tuple[str, int]]:
    for action, value in sorted(counter.webhooks().items()):
        yield f'{{action="{action}"}}', value
