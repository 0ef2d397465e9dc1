"""`python -m worker.lab.benchmarks.counting_server`: a stand-in for Label Studio in benchmarks.

Each of its projects has the same tasks with an image each. It counts the predictions posted, whatever the project, and
how often a project was read. Its answers hold the fields that
`plugin_config.label_studio.client` reads of Label Studio's, and no others.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

CONFIG = (
    '<View><Image name="image" value="$image"/><BrushLabels name="brush" toName="image"><Label value="red shape"/>'
    '<Label value="blue shape"/></BrushLabels></View>'
)
CREATED = "2026-11-01T08:00:00Z"


class PostCounts:
    """Predictions posted so far. Safe to share between threads.

    Args:
        tasks: how many tasks each project has.
        picture: a BMP file, see `stamped`.
    """

    def __init__(self, tasks: int, picture: bytes) -> None:
        self.tasks = tasks
        self.picture = picture
        self._lock = threading.Lock()
        self._posts: Counter[int] = Counter()
        self._versions: dict[int, str] = {}
        self._moments: list[float] = []
        self._looks = 0

    def look(self) -> None:
        """Count that a project was read."""
        with self._lock:
            self._looks += 1

    def post(self, task: int, version: str) -> int:
        """Count one prediction and return its id."""
        with self._lock:
            self._posts[task] += 1
            self._versions[task] = version
            self._moments.append(time.monotonic())
            return len(self._moments)

    def version(self, task: int) -> str:
        """Model version of the last prediction posted for a task; "" when there is none."""
        return self._versions.get(task, "")

    def summary(self) -> dict[str, Any]:
        """Counts of posts, of tasks with a post, of duplicates, of readings of projects; monotonic seconds of the last
        2000 posts and of now.
        """
        with self._lock:
            duplicated = sum(count - 1 for count in self._posts.values())
            return {"posts": len(self._moments), "tasks": len(self._posts), "duplicated": duplicated,
                    "looks": self._looks, "moments": self._moments[-2000:], "now": time.monotonic()}  # fmt: skip


def stamped(picture: bytes, number: int) -> bytes:
    """Write a number into the last pixels of a BMP file, so that no cache takes two tasks' images for one."""
    return picture[:-8] + number.to_bytes(8, "little")


def main(arguments: Sequence[str]) -> int:
    """Serve on a loopback port until terminated."""
    parser = argparse.ArgumentParser(description="Stand-in for Label Studio in benchmarks.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--tasks", type=int, required=True)
    parser.add_argument("--picture", type=Path, required=True)
    found = parser.parse_args(arguments)
    counted = PostCounts(found.tasks, found.picture.read_bytes())
    ThreadingHTTPServer(("127.0.0.1", found.port), _handler(counted)).serve_forever()
    return 0


def _handler(counted: PostCounts) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        wbufsize = -1

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(parts.query).items()}
            if parts.path.startswith("/data/upload/1/"):
                self._send(stamped(counted.picture, int(parts.path.split("/")[4])), "image/bmp")
            elif parts.path.startswith("/api/projects/"):
                if parts.path.count("/") == 4:  # the project itself, not something of it
                    counted.look()
                project = int(parts.path.split("/")[3])
                self._json({"id": project, "title": "bench", "label_config": CONFIG, "model_version": "",
                            "task_number": counted.tasks, "created_at": CREATED})  # fmt: skip
            elif parts.path == "/api/tasks/":
                self._json(_tasks(counted, query))
            elif parts.path == "/api/predictions/":
                task = int(query["task"])
                version = counted.version(task)
                self._json([{"id": task, "task": task, "model_version": version, "result": []}] if version else [])
            elif parts.path == "/count":
                self._json(counted.summary())
            else:
                self._json([])

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            number = counted.post(body["task"], body["model_version"])
            self._json({"id": number, **body}, status=201)

        def do_PATCH(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self._json({})

        def _json(self, value: Any, *, status: int = 200) -> None:
            self._send(json.dumps(value).encode(), "application/json", status=status)

        def _send(self, content: bytes, kind: str, *, status: int = 200) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            """Write no access log."""

    return Handler


def _tasks(counted: PostCounts, query: dict[str, str]) -> dict[str, Any]:
    asked = json.loads(query.get("query", "{}"))
    filters = asked.get("filters", {}).get("items", [])
    later = [one["value"] for one in filters if one["filter"] == "filter:tasks:id"]
    if "selectedItems" in asked:
        ids = [task for task in asked["selectedItems"]["included"] if task <= counted.tasks]
    elif filters and not later:  # by annotations: there are none
        return {"tasks": [], "total": 0}
    else:
        ids = list(range(1 + max(later, default=0), 1 + counted.tasks))
    total, ids = len(ids), ids[: int(query["page_size"])]
    rows = [{"id": task, "data": {"image": f"/data/upload/1/{task}"}, "total_annotations": 0,
             "predictions_model_versions": counted.version(task)} for task in ids]  # fmt: skip
    return {"tasks": rows, "total": total}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
