"""The cache of image files: what is asked again, what is not, what is thrown away, and that it costs only itself."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import stat
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from plugin_config.errors import ImageTooLarge, ImageUnavailable, LabelStudioError
from plugin_config.label_studio.client import LabelStudio
from plugin_config.settings import Settings
from tests.http_server import Answer, Asked, Server, as_json, serving
from tests.test_images import PLAIN
from worker.label_studio import image_cache
from worker.label_studio.fetching import fetch_file
from worker.label_studio.image_cache import ImageCache
from worker.label_studio.image_loader import ImageLoader
from worker.label_studio.images import ImageLimits

LIMITS = ImageLimits(most_bytes=100_000, most_pixels=100_000, timeout_s=5.0, allow_private=True)
UPLOAD = "/data/upload/1/0a1b2c3d-a.png"
LONG_AGO = formatdate(1_700_000_000, usegmt=True)
MB = 1_000_000


class Place(NamedTuple):
    """Label Studio, a foreign server, and the folder of the cache."""

    own: Server
    other: Server
    label_studio: LabelStudio
    folder: Path

    def cache(self, most: int = MB) -> ImageCache:
        """As a process that was just started has it."""
        return ImageCache(self.folder, most)

    def fetch(self, url: str, *, project: int = 1, task: int = 7, cache: ImageCache | None = None) -> bytes:
        return fetch_file(url, task=task, project=project, label_studio=self.label_studio, limits=LIMITS,
                          cache=cache or self.cache())  # fmt: skip

    def kept(self) -> list[Path]:
        return sorted(self.folder.iterdir()) if self.folder.exists() else []


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with (
        serving(lambda asked: Answer(200, b"upload")) as own,
        serving(lambda asked: Answer(200, b"foreign")) as other,
        LabelStudio(own.url, "0123456789abcdef", timeout_s=5) as label_studio,
    ):
        yield Place(own, other, label_studio, tmp_path / "images")


def versioned(content: Callable[[], bytes]) -> Callable[[Asked], Answer]:
    """A server that knows ETags."""

    def answer(asked: Asked) -> Answer:
        tag = f'"{content().hex()}"'
        if asked.headers.get("If-None-Match") == tag:
            return Answer(304, headers={"ETag": tag})
        return Answer(200, content(), {"ETag": tag})

    return answer


def test_an_upload_is_fetched_once(place: Place) -> None:
    assert [place.fetch(UPLOAD) for _ in range(3)] == [b"upload"] * 3
    assert place.own.paths() == [f"GET {UPLOAD}"]


def test_the_checks_of_an_address_come_before_the_cache(place: Place) -> None:
    place.fetch(UPLOAD)
    with pytest.raises(ImageUnavailable, match="holds no file of this task"):
        place.fetch(UPLOAD, project=2)
    flat = "/data/upload/old.png"  # of the time before projects had folders: Label Studio says who may have it
    place.fetch(flat)
    place.own.answer = lambda asked: Answer(403)
    with pytest.raises(ImageUnavailable, match="HTTP 403"):
        place.fetch(flat, project=2)
    foreign = f"{place.other.url}/a.png"
    place.other.answer = versioned(lambda: b"one")
    place.fetch(foreign)
    limits = replace(LIMITS, allow_private=False)
    with pytest.raises(ImageUnavailable, match="private address"):
        fetch_file(foreign, task=7, project=1, label_studio=place.label_studio, limits=limits, cache=place.cache())


def test_a_foreign_file_is_asked_for_again_and_sent_only_where_it_has_changed(place: Place) -> None:
    content = [b"one"]
    place.other.answer = versioned(lambda: content[0])
    url = f"{place.other.url}/a.png"
    assert [place.fetch(url), place.fetch(url)] == [b"one", b"one"]
    content[0] = b"two"
    assert [place.fetch(url), place.fetch(url)] == [b"two", b"two"]
    assert place.other.asked[0].headers.get("If-None-Match") is None
    assert [asked.headers["If-None-Match"] for asked in place.other.asked[1:]] == ['"6f6e65"', '"6f6e65"', '"74776f"']


def test_a_date_serves_where_there_is_no_tag_and_only_when_it_has_settled(place: Place) -> None:
    def answer(asked: Asked) -> Answer:
        if "If-Modified-Since" in asked.headers:
            return Answer(304)
        fresh = "fresh" in asked.path
        return Answer(200, b"dated", {"Last-Modified": formatdate(usegmt=True) if fresh else LONG_AGO})

    place.other.answer = answer
    for name in ("old", "fresh"):
        assert [place.fetch(f"{place.other.url}/{name}") for _ in range(2)] == [b"dated"] * 2
    asked = [asked.headers.get("If-Modified-Since") for asked in place.other.asked]
    assert asked == [None, LONG_AGO, None, None]


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({}, id="nothing to ask by"),
        pytest.param({"ETag": '"a"', "Cache-Control": "private, no-store"}, id="not to be stored"),
        pytest.param({"ETag": '"' + "a" * 600 + '"'}, id="a tag that is too long"),
        pytest.param({"ETag": '"\u00e9"'}, id="a tag that is no ASCII"),
        pytest.param({"Last-Modified": "yesterday"}, id="a date that is none"),
    ],
)
def test_what_cannot_be_asked_about_is_not_kept(headers: dict[str, str], place: Place) -> None:
    place.other.answer = lambda asked: Answer(200, b"foreign", headers)
    assert place.fetch(f"{place.other.url}/a.png") == b"foreign"
    assert place.kept() == []


def test_presigned_addresses_change_and_the_file_is_still_known(place: Place) -> None:
    """Label Studio is asked each time, whether the task may have the file; the storage only sends what has changed."""
    signed = iter(range(10))
    place.own.answer = lambda asked: Answer(303, headers={"Location": f"{place.other.url}/b/a.png?sig={next(signed)}"})
    place.other.answer = versioned(lambda: b"stored")
    assert [place.fetch("s3://b/a.png") for _ in range(2)] == [b"stored"] * 2
    assert [len(place.own.asked), len(place.other.asked)] == [2, 2]
    assert place.other.asked[1].headers["If-None-Match"]
    assert "If-None-Match" not in place.own.asked[1].headers, "only who gave the tag is asked by it"
    place.own.answer = lambda asked: Answer(404)
    with pytest.raises(ImageUnavailable, match="HTTP 404"):
        place.fetch("s3://b/a.png")


def test_a_date_is_not_used_for_another_query(place: Place) -> None:
    """The file that another query asks for may be older."""
    aims = ["/get?file=1", "/get?file=2"]
    place.own.answer = lambda asked: Answer(303, headers={"Location": place.other.url + aims.pop(0)})
    place.other.answer = lambda asked: Answer(200, asked.path.encode(), {"Last-Modified": LONG_AGO})
    assert [place.fetch("s3://b/a.png") for _ in range(2)] == [b"/get?file=1", b"/get?file=2"]
    assert "If-Modified-Since" not in place.other.asked[1].headers


def test_a_tag_is_not_used_for_another_address(place: Place) -> None:
    aims = ["/one.png", "/two.png"]
    place.own.answer = lambda asked: Answer(303, headers={"Location": place.other.url + aims.pop(0)})
    place.other.answer = lambda asked: Answer(200, asked.path.encode(), {"ETag": '"same"'})
    assert [place.fetch("s3://b/a.png") for _ in range(2)] == [b"/one.png", b"/two.png"]
    assert "If-None-Match" not in place.other.asked[1].headers


def test_a_304_that_was_not_asked_for_is_no_picture(place: Place) -> None:
    place.other.answer = lambda asked: Answer(304)
    with pytest.raises(ImageUnavailable, match="HTTP 304"):
        place.fetch(f"{place.other.url}/a.png")


def test_projects_and_label_studios_do_not_share_files(place: Place) -> None:
    content = [b"one"]
    place.other.answer = versioned(lambda: content[0])
    url = f"{place.other.url}/a.png"
    for project in (1, 2):
        place.fetch(url, project=project)
    with LabelStudio("http://labels.example", "t") as other:
        fetch_file(url, task=7, project=1, label_studio=other, limits=LIMITS, cache=place.cache())
    assert ["If-None-Match" in asked.headers for asked in place.other.asked] == [False] * 3
    assert len(place.kept()) == 3


def test_a_refused_token_is_not_hidden_by_the_cache_of_storages(place: Place) -> None:
    place.own.answer = versioned(lambda: b"proxied")
    assert place.fetch("s3://b/a.png") == b"proxied"
    assert place.fetch("s3://b/a.png") == b"proxied"
    place.own.answer = lambda asked: as_json({"detail": "Invalid token."}, 401)
    with pytest.raises(LabelStudioError, match="HTTP 401"):
        place.fetch("s3://b/a.png")


def damage(content: bytes) -> dict[str, bytes]:
    head, _, body = content.partition(b"\n")
    parsed = json.loads(head)
    return {
        "cut": content[:-1], "longer": content + b"x", "another bit": content[:-1] + bytes([content[-1] ^ 1]),
        "empty": b"", "no header": body, "half a header": head[: len(head) // 2], "a list": b"[]\n" + body,
        "other types": json.dumps({**parsed, "etag": 7}).encode() + b"\n" + body,
        "no length": json.dumps({**parsed, "bytes": "6"}).encode() + b"\n" + body,
        "negative length": json.dumps({**parsed, "bytes": -1}).encode() + b"\n" + body,
        "deep": b"[" * 1500 + b"\n", "endless line": b"a" * 10_000, "not UTF-8": b"\xff\xfe{}\n" + body,
    }  # fmt: skip


@pytest.mark.parametrize("kind", sorted(damage(b'{"bytes": 1}\nx')))
@pytest.mark.parametrize("where", ["upload", "foreign"])
def test_a_damaged_file_is_thrown_away_and_fetched_again(kind: str, where: str, place: Place) -> None:
    place.other.answer = versioned(lambda: b"foreign")
    url = UPLOAD if where == "upload" else f"{place.other.url}/a.png"
    good = place.fetch(url)
    (path,) = place.kept()
    path.write_bytes(damage(path.read_bytes())[kind])
    assert place.fetch(url) == good
    asked = len(place.own.asked) + len(place.other.asked)
    assert place.fetch(url) == good
    again = len(place.own.asked) + len(place.other.asked) - asked
    assert again == (0 if where == "upload" else 1), "it is whole again"


def test_the_folder_is_private_and_files_appear_whole(place: Place) -> None:
    os.umask(0o022)
    place.fetch(UPLOAD)
    (path,) = place.kept()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(place.folder.stat().st_mode) == 0o700
    assert "a.png" not in path.name + path.read_bytes().decode(errors="replace")


def put(cache: ImageCache, name: str, size: int) -> None:
    url = httpx.URL(f"http://h/{name}")
    cache.keep(name, content=bytes(size), url=url, headers={}, lasting=True)


def names(cache: ImageCache, most: int) -> list[int]:
    return [number for number in range(most) if cache.recall(str(number)).path]


def test_what_was_used_longest_ago_goes_first(place: Place) -> None:
    cache = place.cache(100_000)
    for number in range(12):
        put(cache, str(number), 8000)
        os.utime(cache.recall(str(number)).path or "", (number, number))
        if number == 8:
            assert cache.recall("0").read() is not None, "it is used again"
    found = names(cache, 12)
    assert 0 in found
    assert found[1:] == list(range(12 - len(found) + 1, 12))
    assert sum(path.stat().st_size for path in place.kept()) < 105_000


def test_a_file_that_would_drive_out_the_others_is_not_kept(place: Place) -> None:
    put(place.cache(100_000), "large", 20_000)
    assert place.kept() == []


def test_zero_keeps_and_recalls_nothing(place: Place) -> None:
    place.fetch(UPLOAD)
    for _ in range(2):
        place.fetch(UPLOAD, cache=place.cache(0))
    assert len(place.own.asked) == 3
    assert len(place.kept()) == 1
    assert Settings().image_cache_mb == 1000


def test_several_processes_share_a_folder_within_its_size(place: Place) -> None:
    """Each has a cache of its own: eight write and read the same and different files at once."""
    caches, broken = [place.cache(200_000) for _ in range(8)], []

    def work(number: int) -> None:
        for step in range(40):
            name = str((number * step) % 60)
            put(caches[number], name, 4000 + number)
            content = caches[number].recall(name).read()
            if content is not None and (len(content) not in range(4000, 4008) or any(content)):
                broken.append(name)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert broken == []
    assert sum(path.stat().st_size for path in place.kept()) < 200_000 * (1 + 8 / 20)


def test_what_a_killed_process_left_is_removed(place: Place) -> None:
    put(place.cache(), "a", 10)
    old, new = place.folder / "x.aside", place.folder / "y.aside"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 7200,) * 2)
    put(place.cache(), "b", 10)
    assert [old.exists(), new.exists()] == [False, True]


class Trouble(NamedTuple):
    """What goes wrong with the disk."""

    make: Callable[[Path, pytest.MonkeyPatch], Any]
    told: str


def full(folder: Path, patch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    patch.setattr(image_cache, "open_private", refuse)


def nearly_full(folder: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**12, 10**12, 900 * MB))


@pytest.mark.parametrize(
    "trouble",
    [
        pytest.param(Trouble(full, "No space left"), id="full"),
        pytest.param(Trouble(nearly_full, "only 900 MB"), id="nearly full"),
        pytest.param(Trouble(lambda folder, _: folder.write_bytes(b""), "File exists|Not a directory"), id="a file"),
        pytest.param(Trouble(lambda folder, _: folder.symlink_to("/proc/1"), "."), id="not to be written"),
    ],
)
def test_a_disk_in_trouble_costs_the_cache_only(
    trouble: Trouble, place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    trouble.make(place.folder, monkeypatch)
    cache = place.cache()
    with caplog.at_level(logging.WARNING):
        for number in range(3):
            assert place.fetch(f"/data/upload/1/{number}.png", cache=cache) == b"upload"
    warnings = [record.getMessage() for record in caplog.records if "are not kept" in record.getMessage()]
    assert len(warnings) == 1
    assert re.search(trouble.told, warnings[0])


def test_a_nearly_full_disk_gets_half_of_the_cache_back(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = place.cache(100_000)
    for number in range(8):
        put(cache, str(number), 10_000)
    nearly_full(place.folder, monkeypatch)
    put(cache, "9", 10_000)
    assert sum(path.stat().st_size for path in place.kept()) <= 50_000


def test_the_limit_of_a_file_holds_for_kept_ones_too(place: Place) -> None:
    place.fetch(UPLOAD)
    small = replace(LIMITS, most_bytes=3)
    with pytest.raises(ImageTooLarge):
        fetch_file(UPLOAD, task=7, project=1, label_studio=place.label_studio, limits=small, cache=place.cache())


def test_the_loader_reads_the_second_time_from_the_disk(place: Place) -> None:
    place.own.answer = lambda asked: Answer(200, PLAIN)
    for _ in range(2):  # a restart in between
        loader = ImageLoader(LIMITS, place.cache())
        picture = loader.load(UPLOAD, task=7, project=1, label_studio=place.label_studio, urgent=False)
        assert picture.size == (24, 40)
    assert len(place.own.asked) == 1


def test_deleting_the_folder_meanwhile_does_no_harm(place: Place) -> None:
    stop = threading.Event()

    def delete() -> None:
        while not stop.is_set():
            shutil.rmtree(place.folder, ignore_errors=True)

    thread = threading.Thread(target=delete)
    thread.start()
    try:
        cache = place.cache()
        assert [place.fetch(UPLOAD, cache=cache) for _ in range(50)] == [b"upload"] * 50
    finally:
        stop.set()
        thread.join()
