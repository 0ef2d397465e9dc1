"""Versions on disk: whole or not there, one owner's only, the pointer, pruning; also behind a URL, or full."""

from __future__ import annotations

import errno
import hashlib
import json
import multiprocessing
import os
import random
import time
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest
from redis import Redis

from plugin_config.errors import LearningError, VersionsUnavailable
from plugin_config.model_version import ZEROSHOT, adapter_name, adapter_number
from plugin_config.overview.versions import read_versions
from plugin_config.versions.manifests import KEPT, Attempt, Manifest, Owner, Pointer, VerdictRecord, VersionFolder
from plugin_config.versions.served import ServedAdapters, ServedCopy
from tests.house import wait_until

OWNER = Owner("http://ls:8080", 12, "2026-01-31T12:00:00Z", "builtin")
VERDICT = VerdictRecord(True, "promoted: better", {"mean_iou": {"served": 0.5}})
PLACES = [pytest.param("{tmp}/versions", id="folder"), pytest.param("memory://{tmp}", id="URL")]


def add(folder: VersionFolder, number: int, *, data: bytes = b"tensors", base: str = ZEROSHOT) -> Manifest:
    content = data + str(number).encode()
    sha256 = hashlib.sha256(content).hexdigest()
    name = adapter_name(number, sha256)
    manifest = Manifest(name, folder.owner, "0123", "quick", {"grid": 128}, base, "2026-11-25T12:00:00+00:00",
                        f"digest {number}", ("1", "2"), VERDICT, sha256, len(content))  # fmt: skip
    folder.add(manifest, content)
    return manifest


@pytest.fixture(params=PLACES)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> VersionFolder:
    return VersionFolder(str(request.param).format(tmp=tmp_path), OWNER)


def test_a_version_comes_back_as_it_was_written(folder: VersionFolder) -> None:
    manifest = add(folder, 1)
    assert folder.names() == [manifest.name]
    assert folder.manifest(manifest.name) == manifest
    assert folder.adapter(manifest.name) == (manifest, b"tensors1")
    assert manifest.number == 1


def test_the_pointer_comes_back_as_it_was_written(folder: VersionFolder) -> None:
    assert folder.pointer() == Pointer()
    attempt = Attempt("d", 4, "2026", "v", "now", VERDICT, "a1-123456", "0123", "c-0123", {"7": "HTTP 503"}, "later",
                      {"cat": {"accepted": 1}})  # fmt: skip
    pointer = replace(Pointer(rejected=("x",), newest=3, attempt=attempt).moved("a1-123456", by="gate"))
    folder.point(pointer)
    assert folder.pointer() == pointer
    assert (pointer.serial, pointer.moved_by) == (1, "gate")


def test_an_attempt_of_before_more_was_noted_is_read(tmp_path: Path) -> None:
    folder = VersionFolder(str(tmp_path), OWNER)
    attempt = Attempt("d", 4, "2026", "v", "now", VERDICT, "a1-123456")
    folder.point(Pointer(attempt=attempt))
    path = tmp_path / OWNER.folder / "served.json"
    row = json.loads(path.read_text())
    row["attempt"] = {key: row["attempt"][key] for key in
                      ("digest", "tasks", "latest", "vocabulary", "at", "verdict", "version")}  # fmt: skip
    path.write_text(json.dumps(row))
    assert folder.pointer().attempt == attempt


def test_versions_are_in_the_order_of_their_numbers(folder: VersionFolder) -> None:
    for number in (2, 10, 1):
        add(folder, number)
    assert [adapter_number(name) for name in folder.names()] == [1, 2, 10]


def test_pruning_keeps_what_is_named_and_the_newest(folder: VersionFolder) -> None:
    names = [add(folder, number).name for number in range(1, KEPT + 5)]
    gone = folder.prune({names[0], names[2]})
    assert gone == [names[1], names[3]]
    assert folder.names() == [names[0], names[2], *names[4:]]


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(replace(OWNER, project=13), id="project"),
        pytest.param(replace(OWNER, label_studio="http://ls:8081"), id="Label Studio"),
        pytest.param(replace(OWNER, label_studio="https://ls:8080"), id="scheme"),
        pytest.param(replace(OWNER, created="2026-02-01T00:00:00Z"), id="a number given again"),
        pytest.param(replace(OWNER, model="ViT-B-16/datacomp_xl_s13b_b90k"), id="model"),
    ],
)
def test_another_owner_neither_sees_nor_loads_a_version(tmp_path: Path, other: Owner) -> None:
    mine, theirs = VersionFolder(str(tmp_path), OWNER), VersionFolder(str(tmp_path), other)
    manifest = add(mine, 1)
    assert theirs.names() == []
    with pytest.raises(LearningError, match="is not in"):
        theirs.adapter(manifest.name)
    (tmp_path / other.folder).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / OWNER.folder).rename(tmp_path / other.folder)  # somebody copies folders about
    with pytest.raises(LearningError, match="was learned as"):
        theirs.adapter(manifest.name)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        pytest.param(lambda at: (at / "adapter.safetensors").write_bytes(b"tensors2"), "damaged", id="other bytes"),
        pytest.param(lambda at: os.truncate(at / "adapter.safetensors", 3), "damaged", id="cut short"),
        pytest.param(lambda at: (at / "adapter.safetensors").unlink(), "lost its tensors", id="no tensors"),
        pytest.param(lambda at: (at / "manifest.json").unlink(), "is not in", id="no manifest"),
        pytest.param(lambda at: (at / "manifest.json").write_text('{"name": 1'), "damaged", id="half a manifest"),
        pytest.param(lambda at: (at / "manifest.json").write_text("{}"), "damaged", id="empty manifest"),
        pytest.param(lambda at: (at / "manifest.json").write_text("[]"), "damaged", id="a list"),
    ],
)  # fmt: skip
def test_a_damaged_version_is_an_error(tmp_path: Path, spoil: object, message: str) -> None:
    folder = VersionFolder(str(tmp_path), OWNER)
    manifest = add(folder, 1)
    spoil(tmp_path / OWNER.folder / manifest.name)  # type: ignore[operator]
    with pytest.raises(LearningError, match=message) as raised:
        folder.adapter(manifest.name)
    assert "zeromask" in raised.value.remedy or "Put it back" in raised.value.remedy


@pytest.mark.parametrize("text", ['{"served": ', "{}", "[]", '"a1"', '{"served": "../../etc", "attempt": null}'])
def test_a_damaged_pointer_is_told(tmp_path: Path, text: str) -> None:
    folder = VersionFolder(str(tmp_path), OWNER)
    folder.point(Pointer())
    (tmp_path / OWNER.folder / "served.json").write_text(text)
    with pytest.raises(LearningError, match="damaged"):
        folder.pointer()


def test_a_name_leads_nowhere_else(tmp_path: Path) -> None:
    folder = VersionFolder(str(tmp_path), OWNER)
    for name in ("../x", "a1", "", "a1-12345", "a1-123456/../..", ZEROSHOT):
        with pytest.raises(LearningError):
            folder.manifest(name)


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = VersionFolder(str(tmp_path), OWNER)
    manifest = add(folder, 1)
    pointer = Pointer().moved(manifest.name, by="gate")
    folder.point(pointer)

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(VersionsUnavailable, match="No space left") as raised:
        add(folder, 2)
    assert "ZEROMASK_VERSIONS" in raised.value.remedy
    with pytest.raises(VersionsUnavailable):
        folder.point(Pointer().moved(ZEROSHOT, by="person"))
    monkeypatch.undo()
    assert (folder.names(), folder.pointer()) == ([manifest.name], pointer)
    assert not list(tmp_path.rglob("*.aside"))


def test_a_place_that_is_no_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    folder = VersionFolder(str(tmp_path / "file"), OWNER)
    with pytest.raises(VersionsUnavailable):
        add(folder, 1)
    with pytest.raises(VersionsUnavailable, match="ZEROMASK_VERSIONS"):
        VersionFolder("s4://nowhere", OWNER)


def test_no_message_holds_the_password_of_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """The status page shows them."""
    place = "memory://me:s3cr@t@store.example.com/versions"
    copy = ServedCopy("a1-123456", 7, place, OWNER)
    assert "folder memory://store.example.com/versions: is not where" in read_versions(copy).trouble

    def away(*_: object, **__: object) -> None:
        raise OSError(f"no answer from {place}")

    monkeypatch.setattr(fsspec.filesystem("memory", use_listings_cache=False), "cat_file", away)
    trouble = read_versions(copy).trouble
    assert "no answer from memory://store.example.com/versions" in trouble
    assert "s3cr" not in trouble
    assert "@" not in trouble


def test_an_object_store_that_is_away_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = VersionFolder(f"memory://{tmp_path}", OWNER)
    add(folder, 1)

    def away(*_: object, **__: object) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr(fsspec.filesystem("memory", use_listings_cache=False), "cat_file", away)
    with pytest.raises(VersionsUnavailable, match="no route"):
        folder.pointer()


def promote_in_turn(place: str, redis_url: str, rounds: int, who: int) -> None:
    """One of several learners of a project: each round adds a version and moves the pointer, under the lock of it."""
    folder = VersionFolder(place, OWNER)
    with Redis.from_url(redis_url) as redis:
        served = ServedAdapters(redis)
        for number in range(1, rounds + 1):
            made = add(folder, number, data=f"{who}".encode() * 10_000)
            with served.pointer_lock(OWNER.project):
                folder.point(folder.pointer().moved(made.name, by="gate"))


def write_for_ever(place: str) -> None:
    folder = VersionFolder(place, OWNER)
    while True:
        pointer = folder.pointer()
        made = add(folder, adapter_number(pointer.served) + 1, data=b"x" * 300_000, base=pointer.served)
        folder.point(pointer.moved(made.name, by="gate"))
        folder.prune({made.name, made.base})


def test_kill_9_at_twenty_moments_leaves_a_whole_version_served(tmp_path: Path) -> None:
    chance, folder = random.Random(5), VersionFolder(str(tmp_path), OWNER)
    serials, fork = [0], multiprocessing.get_context("fork")
    for _ in range(20):
        writer = fork.Process(target=write_for_ever, args=(str(tmp_path),), daemon=True)
        writer.start()
        try:
            wait_until(lambda: folder.pointer().serial > serials[-1], told="this writer's first version")
            time.sleep(chance.uniform(0.005, 0.1))
        finally:
            writer.kill()
            writer.join()
        pointer = folder.pointer()
        if pointer.served != ZEROSHOT:
            manifest, data = folder.adapter(pointer.served)
            assert len(data) == manifest.size
        assert all(folder.adapter(name) for name in folder.names())
        serials.append(pointer.serial)
    assert serials == sorted(serials)
    assert serials[-1] >= 20, serials
    folder.prune({folder.pointer().served})
    assert len(folder.names()) <= KEPT + 1
    assert not list(tmp_path.rglob("*.aside")), "what the killed left is gone"
    assert json.loads((tmp_path / OWNER.folder / "served.json").read_text())["serial"] == serials[-1]


def test_an_offer_that_is_being_written_while_a_version_is_promoted_is_left_alone(tmp_path: Path) -> None:
    folder = VersionFolder(str(tmp_path), OWNER)
    add(folder, 1)
    place = tmp_path / OWNER.folder
    (place / "offer-0123456789ab").mkdir()
    writing, killed = place / "offer-0123456789ab" / "adapter.safetensors.x.aside", place / "served.json.x.aside"
    writing.write_bytes(b"half")
    killed.write_bytes(b"half")
    folder.prune(set())
    assert (writing.exists(), killed.exists()) == (True, False)
