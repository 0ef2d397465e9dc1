"""A worker on another machine: an empty folder, the addresses of Redis, Label Studio and the versions, nothing else."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from redis import Redis

from plugin_config.model_version import ZEROSHOT, ModelVersion
from plugin_config.versions.manifests import Owner, Pointer, VerdictRecord, VersionFolder
from tests.corrections import SQUARES, STRANGE
from tests.house import PATIENCE_S, SIZE, TOKEN, picture, wait_until
from tests.http_server import Answer, Asked, Server, as_json
from tests.http_server import serving as serving_http
from tests.s3_server import BUCKET, S3Server, s3_fixture
from tests.test_backend_process import serving as serving_backend
from tests.tls import authority, terminating
from worker.label_studio.regions import decode_region
from worker.learning.interfaces import UNLABELLED, Example
from worker.learning.recipes import recipe_named
from worker.segmentation.encoders.encoder import Encoder
from worker.segmentation.segmenter import Segmenter
from worker.service.adapter_store import save_adapter

__all__ = ["s3_fixture"]  # pytest finds the fixture by its being here
pytestmark = pytest.mark.usefixtures("one_thread")

PROJECT, CREATED, PLACE = 7, "2026-11-01T08:00:00Z", f"s3://{BUCKET}/zeromask"
TASKS = (1, 2, 3)


def truth(top: int) -> np.ndarray[Any, np.dtype[np.int16]]:
    """Which label stands where in `picture(top)`."""
    found = np.full((SIZE[1], SIZE[0]), UNLABELLED, dtype=np.int16)
    for number, left in enumerate(SQUARES.values()):
        found[top : top + 47, left : left + 47] = number
    return found


def promote(label_studio: str) -> str:
    """What a learner elsewhere leaves in the store: a version that knows the words nobody knows; returns its name."""
    segmenter = Segmenter(Encoder("builtin", device="cpu"))
    image = np.array(Image.open(io.BytesIO(picture(top=20))).convert("RGB"))
    words = tuple((label,) for label in SQUARES)
    example = Example("1", image, segmenter.embed([image])[0], words, truth(20))
    folder = VersionFolder(PLACE, Owner(label_studio, PROJECT, CREATED, "builtin"))
    made = save_adapter(folder, recipe_named("quick").fit([example], words, segmenter), newest=0, base=ZEROSHOT,
                        weights=segmenter.encoder.fingerprint, digest="d", learned_from=("1",),
                        verdict=VerdictRecord(True, "promoted", {}))  # fmt: skip
    folder.point(Pointer(newest=1).moved(made.name, by="gate"))
    return made.name


def label_studio(asked: Asked) -> Answer:
    """What one project of three pictures answers."""
    path = asked.path.partition("?")[0]
    if asked.headers.get("Authorization") != f"Token {TOKEN}":
        return as_json({"detail": "Invalid token."}, 401)
    if path.startswith(f"/data/upload/{PROJECT}/"):
        return Answer(200, picture(top=20 + 2 * int(Path(path).stem)), {"Content-Type": "image/png"})
    if path == f"/api/projects/{PROJECT}/":
        return as_json({"id": PROJECT, "title": "elsewhere", "label_config": STRANGE, "model_version": "",
                        "task_number": len(TASKS), "created_at": CREATED})  # fmt: skip
    if path == "/api/tasks/":
        rows = [{"id": task, "data": {"image": f"/data/upload/{PROJECT}/{task}.png"}, "total_annotations": 0,
                 "predictions_model_versions": ""} for task in TASKS]  # fmt: skip
        return as_json({"tasks": rows, "total": len(rows)})
    if asked.method == "POST" and path == "/api/predictions/":
        body = json.loads(asked.body)
        return as_json({"id": body["task"], **body}, 201)
    return as_json([])


def posted(server: Server) -> dict[int, dict[str, Any]]:
    """Task -> the prediction that was stored for it."""
    rows = [json.loads(asked.body) for asked in list(server.asked) if asked.method == "POST"]
    return {row["task"]: row for row in rows}


@contextmanager
def worker(folder: Path, **environ: str) -> Iterator[subprocess.Popen[bytes]]:
    """A worker whose whole environment is given, and whose working folder and home are an empty one."""
    folder.mkdir()
    with (folder.parent / "worker.log").open("wb") as log:
        command = [sys.executable, "-m", "worker", "--model", "builtin"]
        process = subprocess.Popen(command, cwd=folder, env={**environ, "HOME": str(folder)}, stderr=log)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE_S)
        finally:
            process.kill()


@pytest.fixture
def encrypted(redis: Redis, redis_url: str, tmp_path: Path) -> Iterator[dict[str, str]]:
    """How a worker is told of the session's Redis, over TLS and with a password."""
    own = authority(tmp_path)
    redis.acl_setuser("worker", enabled=True, passwords=["+a secret"], keys=["*"], channels=["*"], commands=["+@all"])
    try:
        with terminating(own.context("localhost"), redis_url.removeprefix("unix://")) as port:
            yield {"REDIS_URL": f"rediss://worker:a%20secret@localhost:{port}/0", "ZEROMASK_CA_BUNDLE": own.bundle}
    finally:
        redis.acl_deluser("worker")


def test_it_predicts_with_what_was_learned_elsewhere(
    s3: S3Server, encrypted: dict[str, str], redis_url: str, tmp_path: Path
) -> None:
    with (
        serving_http(label_studio) as server,
        serving_backend(REDIS_URL=redis_url, ZEROMASK_STATE_DIR=str(tmp_path / "backend")) as backend,
    ):
        learned = promote(server.url)
        rows = [{"id": task} for task in TASKS]
        body = {"tasks": rows, "project": f"{PROJECT}.1", "label_config": STRANGE, "params": {"context": None}}
        assert backend.ask("POST", "/predict", body)[0] == 200
        environ = {**encrypted, **s3.environ(), "LABEL_STUDIO_URL": server.url, "LABEL_STUDIO_API_KEY": TOKEN,
                   "ZEROMASK_VERSIONS": PLACE}  # fmt: skip
        with worker(tmp_path / "elsewhere", **environ) as process:
            wait_until(lambda: set(posted(server)) == set(TASKS) or process.poll() is not None, told="predictions")
            assert process.poll() is None, (tmp_path / "worker.log").read_text()

            def told() -> str:
                asked = {"project": f"{PROJECT}.1", "schema": STRANGE}
                return str(backend.ask("POST", "/setup", asked)[1]["model_version"])

            def is_learned() -> bool:
                found = ModelVersion.parse(told())  # zero-shot where Redis is too slow for an answer
                return found is not None and found.adapter == learned

            wait_until(is_learned, told="the same version from the backend, which knows no store")
            version = told()
        assert process.returncode == 0
    for task, row in posted(server).items():
        assert row["model_version"] == version
        classes = truth(20 + 2 * task)
        for number, label in enumerate(SQUARES):
            mask = np.any([decode_region(region, *SIZE) for region in row["result"]
                           if region["value"]["brushlabels"] == [label]], axis=0)  # fmt: skip
            assert (mask & (classes == number)).sum() / (mask | (classes == number)).sum() > 0.8, (task, label)
    kept = {path.name for path in (tmp_path / "elsewhere" / ".zeromask").iterdir()}
    assert kept <= {"embeddings", "images", "texts"}, "its state folder holds caches only"
