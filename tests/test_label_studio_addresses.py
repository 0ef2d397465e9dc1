"""Addresses of images on a real Label Studio: its own files under every name, its cloud storages, and what is told."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from plugin_config.errors import ImageUnavailable
from tests.house import House, make_project, picture, retrieve, upload, wait_predicted
from tests.http_server import Answer, Asked, Server, serving
from worker.label_studio.fetching import fetch_file
from worker.label_studio.images import ImageLimits

LIMITS = ImageLimits(most_bytes=1_000_000, most_pixels=1_000_000, timeout_s=30.0, allow_private=False)
FREE = ImageLimits(most_bytes=1_000_000, most_pixels=1_000_000, timeout_s=30.0, allow_private=True)
PICTURE = picture(top=20)


def bring(house: House, project: int, images: list[str]) -> list[int]:
    """Import tasks with these addresses; returns their ids, in order."""
    before = {task.id for task in house.label_studio.all_tasks(project)}
    house.label_studio.request("POST", f"/api/projects/{project}/import", json=[{"image": image} for image in images])
    return sorted({task.id for task in house.label_studio.all_tasks(project)} - before)


def address_of(house: House, project: int, task: int) -> Any:
    (found,) = house.label_studio.tasks(project, [task])
    return found.data["image"]


def fetched(house: House, project: int, task: int, limits: ImageLimits = LIMITS) -> bytes:
    address = address_of(house, project, task)
    return fetch_file(address, task=task, project=project, label_studio=house.label_studio, limits=limits)


def test_pictures_come_under_every_name_and_spelling(house: House) -> None:
    project = make_project(house, count=0, name="addresses")
    upload(house, project, [PICTURE])
    (first,) = [task.id for task in house.label_studio.all_tasks(project)]
    path, port = address_of(house, project, first), urlsplit(house.label_studio.url).port
    bring(
        house, project,
        [
            f" {path}", f"{path}\n", f"//localhost:{port}{path}", path.removeprefix("/data/"),
            *(f"http://{host}:{port}{path}" for host in ("localhost", "127.0.0.1", "[::1]")),
            f"data:image/png;base64,{base64.b64encode(PICTURE).decode()}",
        ],
    )  # fmt: skip
    for task in list(house.label_studio.all_tasks(project)):
        assert fetched(house, project, task.id) == PICTURE
    retrieve(house, project)
    wait_predicted(house, project)


def test_what_label_studio_does_not_send_is_told_with_what_to_change_in_it(house: House) -> None:
    project = make_project(house, count=0, name="refused addresses")
    told = {
        "/data/local-files/?d=set/any.png": r"HTTP 403.*LOCAL_FILES_SERVING_ENABLED",
        f"/data/upload/{project}/0000-gone.png": r"HTTP 500.*an upload that was deleted",
        "s3://some-bucket/a.png": r"no storage of its project has, 's3://some-bucket'.*Settings > Cloud Storage",
        "azure-blob://box/a.png": r"no storage of its project has, 'azure-blob://box'",
        "/api/users/": r"holds no file of this task",
    }
    for task, reason in zip(bring(house, project, list(told)), told.values(), strict=True):
        with pytest.raises(ImageUnavailable, match=f"image of task {task}: .*{reason}"):
            fetched(house, project, task)


def bucket(asked: Asked) -> Answer:
    """The one file of an S3 storage."""
    if asked.path.partition("?")[0] in ("/pictures", "/pictures/"):
        return Answer(200)
    if asked.path.partition("?")[0] != "/pictures/a%20b.png":
        return Answer(404, b"<Error><Code>NoSuchKey</Code></Error>", {"Content-Type": "application/xml"})
    return Answer(200, b"" if asked.method == "HEAD" else PICTURE, {"Content-Type": "image/png"})


@pytest.fixture
def storage() -> Iterator[Server]:
    with serving(bucket) as server:
        yield server


def test_pictures_come_from_a_cloud_storage_signed_or_through_label_studio(house: House, storage: Server) -> None:
    project = make_project(house, count=0, name="storage")
    (task, gone) = bring(house, project, ["s3://pictures/a b.png", "s3://pictures/gone.png"])
    body = {"project": project, "bucket": "pictures", "s3_endpoint": storage.url, "aws_access_key_id": "key",
            "aws_secret_access_key": "hush", "region_name": "eu-west-1", "presign": True}  # fmt: skip
    row = house.label_studio.request("POST", "/api/storages/s3/", json=body)
    assert "/resolve/?fileuri=" in address_of(house, project, task)
    with pytest.raises(ImageUnavailable, match=r"private address.*ALLOW_PRIVATE_IMAGES=1, or turn off pre-signed"):
        fetched(house, project, task)
    assert fetched(house, project, task, FREE) == PICTURE
    with pytest.raises(ImageUnavailable, match=r"refused by its storage \(HTTP 404\)"):
        fetched(house, project, gone, FREE)
    ours = [asked.headers for asked in storage.asked if asked.headers.get("User-Agent", "").startswith("zeromask/")]
    assert len(ours) == 2
    assert not any("Authorization" in headers for headers in ours)
    house.label_studio.request("PATCH", f"/api/storages/s3/{row['id']}", json={"presign": False})
    assert fetched(house, project, task) == PICTURE
    with pytest.raises(ImageUnavailable, match=r"cannot be read from its storage by Label Studio \(HTTP 424\)"):
        fetched(house, project, gone)
