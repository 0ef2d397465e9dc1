"""Learned versions in an S3-compatible store, on a real server: the whole loop, two learners, and every error."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pytest
from click.testing import CliRunner
from redis import Redis

from plugin_config.cli.main import zeromask
from plugin_config.errors import LearningError, VersionsUnavailable
from plugin_config.local import services
from plugin_config.model_version import ZEROSHOT, adapter_number
from plugin_config.settings import Settings
from plugin_config.versions.manifests import Pointer, VersionFolder
from plugin_config.versions.rollback import roll_back
from plugin_config.versions.storage import Storage
from tests.learning_house import WEIGHTS, LearningHouse, learning_house_fixture, segmenter_with
from tests.s3_server import BUCKET, S3Server, s3_fixture
from tests.stand_ins import PROJECT
from tests.test_versions import OWNER, add, promote_in_turn
from worker.service.adapters import ProjectAdapters

__all__ = ["learning_house_fixture", "s3_fixture"]  # pytest finds the fixtures by their being here

PLACE = f"s3://{BUCKET}/zeromask"
ROUNDS = 5


@pytest.fixture(autouse=True)
def nothing_remembered() -> Iterator[None]:
    """fsspec keeps an opened file system, with its address and key, for as long as a process lives."""
    fsspec.filesystem("s3").clear_instance_cache()
    yield
    fsspec.filesystem("s3").clear_instance_cache()


def elsewhere(house: LearningHouse, folder: Path) -> ProjectAdapters:
    """What a worker on another machine serves: it has the store and Redis in common with the learner, and no disk."""
    settings = replace(house.settings, state_dir=str(folder))
    return ProjectAdapters(settings, house.redis, segmenter_with(WEIGHTS))


def serve(found: ProjectAdapters, house: LearningHouse) -> tuple[str, float]:
    name, adapter = found.served(house.label_studio.project(PROJECT))
    made: Any = adapter
    return name, made.number if made else 0.0


def test_what_a_learner_promotes_is_served_elsewhere_rolled_back_and_listed(
    learning_house: LearningHouse, s3: S3Server, tmp_path: Path, redis_url: str
) -> None:
    house = learning_house
    house.settings = replace(house.settings, versions=PLACE, redis_url=redis_url)
    house.read_otherwise(WEIGHTS)
    other = elsewhere(house, tmp_path / "other")
    assert serve(other, house) == (ZEROSHOT, 0.0)
    for tasks, digest in ((3, "one"), (6, "two")):
        house.annotate(tasks, digest=digest)
        house.look()
        assert serve(other, house) == (house.served, float(adapter_number(house.served)))
    newest = house.served
    assert adapter_number(newest) == 2
    assert [name.rsplit("/", 1)[-1] for name in s3.names()] == [
        "adapter.safetensors", "manifest.json", "adapter.safetensors", "manifest.json", "served.json"
    ]  # fmt: skip

    env = {"REDIS_URL": redis_url, "MODEL": "builtin", "ZEROMASK_STATE_DIR": str(tmp_path / "third")}
    done = CliRunner().invoke(zeromask, ["versions", str(PROJECT), "--json"], env=env)
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert [adapter_number(row["name"]) for row in told["versions"]] == [1, 2]
    assert told["served"] == newest

    assert roll_back(house.redis, PROJECT, "builtin").after == told["versions"][0]["name"]
    assert serve(other, house)[1] == 1.0
    house.redis.flushall()
    assert serve(elsewhere(house, tmp_path / "fourth"), house)[1] == 1.0, "the store is right, also without Redis"
    assert not list(tmp_path.rglob("*.safetensors")), "nothing was kept on a disk"


def test_a_worker_that_reaches_label_studio_under_another_address_serves_the_same(
    learning_house: LearningHouse, s3: S3Server, tmp_path: Path
) -> None:
    house = learning_house
    house.settings = replace(house.settings, versions=PLACE)
    house.read_otherwise(WEIGHTS)
    settings = replace(house.settings, label_studio_url="https://labels.example.com", state_dir=str(tmp_path / "other"))
    other, near = ProjectAdapters(settings, house.redis, segmenter_with(WEIGHTS)), elsewhere(house, tmp_path / "near")
    assert serve(other, house) == serve(near, house) == (ZEROSHOT, 0.0)
    house.annotate(3, digest="one")
    house.look()
    for cache in (other, near, other):
        assert serve(cache, house)[0] == house.served != ZEROSHOT
        cache.served(house.label_studio.project(PROJECT), from_disk=True)
    made = house.label_studio.project(PROJECT)
    assert other.folder(made).owner == house.folder.owner
    assert other.learned(made, house.served) == near.learned(made, house.served)
    house.redis.flushall()
    assert serve(other, house) == (ZEROSHOT, 0.0), "nothing tells it by which address versions are kept"
    assert serve(near, house)[0] == house.served
    assert serve(other, house)[0] == house.served
    another = replace(made, created="2026-11-30T00:00:00Z")
    assert other.served(another) == (ZEROSHOT, None), "the number was given to a new project"


def test_a_file_is_whole_or_not_there_and_listings_are_of_now(s3: S3Server) -> None:
    mine, theirs = VersionFolder(PLACE, OWNER), VersionFolder(PLACE, OWNER)
    assert (mine.names(), mine.pointer()) == ([], Pointer())
    first = add(theirs, 1)
    assert mine.names() == [first.name], "a version of another process is seen at once"
    assert mine.adapter(first.name) == (first, b"tensors1")
    Storage(f"{PLACE}/{OWNER.folder}").delete(f"{first.name}/manifest.json")
    assert mine.names() == [], "a writer was killed between the two files"
    with pytest.raises(LearningError, match="is not in s3://"):
        mine.adapter(first.name)
    second = add(theirs, 2)
    theirs.prune({second.name})
    mine.delete_offer("offer-1")
    assert mine.names() == [second.name]


def test_large_tensors_go_in_parts_and_come_back(s3: S3Server) -> None:
    folder = VersionFolder(PLACE, OWNER)
    data = os.urandom(1 << 20) * 60
    manifest = add(folder, 1, data=data)
    assert folder.adapter(manifest.name)[1] == data + b"1"


@pytest.mark.parametrize("content", [b"", b'{"served": '], ids=["empty", "cut"])
def test_a_damaged_pointer_is_told(s3: S3Server, content: bytes) -> None:
    Storage(f"{PLACE}/{OWNER.folder}").write("served.json", content)
    with pytest.raises(LearningError, match="damaged"):
        VersionFolder(PLACE, OWNER).pointer()


def test_two_learners_at_once_lose_no_move_of_the_pointer(s3: S3Server, redis: Redis, redis_url: str) -> None:
    folder, spawn = VersionFolder(PLACE, OWNER), multiprocessing.get_context("spawn")
    learners = [spawn.Process(target=promote_in_turn, args=(PLACE, redis_url, ROUNDS, who)) for who in range(2)]
    for learner in learners:
        learner.start()
    while any(learner.is_alive() for learner in learners):
        pointer = folder.pointer()  # raises where half of one is read
        if pointer.served != ZEROSHOT:
            folder.adapter(pointer.served)
        time.sleep(0.05)
    for learner in learners:
        learner.join()
        assert learner.exitcode == 0
    assert folder.pointer().serial == 2 * ROUNDS
    assert len(folder.names()) == 2 * ROUNDS, "two versions of one number have two names"


def test_a_bucket_that_is_missing_is_told(s3: S3Server) -> None:
    folder = VersionFolder("s3://no-such-bucket/zeromask", OWNER)
    for ask in (folder.pointer, folder.names, lambda: add(folder, 1), lambda: folder.point(Pointer())):
        with pytest.raises(VersionsUnavailable, match=r"bucket does not exist\)\. Make it, or correct"):
            ask()


@pytest.mark.parametrize(
    ("variable", "told"),
    [
        pytest.param("AWS_ACCESS_KEY_ID", "AWS_ACCESS_KEY_ID", id="a key that nobody has"),
        pytest.param("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", id="a wrong secret"),
    ],
)
def test_a_wrong_key_is_told_and_never_shown(
    s3: S3Server, variable: str, told: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(variable, "wrong-and-secret")
    folder = VersionFolder(PLACE, OWNER)
    shown = ""
    with caplog.at_level(logging.INFO):
        for ask in (folder.pointer, folder.names, lambda: add(folder, 1), lambda: folder.point(Pointer())):
            with pytest.raises(VersionsUnavailable, match=told) as caught:
                ask()
            shown += f"{caught.value}"
    assert not [secret for secret in (s3.secret, "wrong-and-secret") if secret in shown + caplog.text]


def test_no_key_at_all_is_told(s3: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(VersionsUnavailable, match=r"credentials.*AWS_ACCESS_KEY_ID"):
        VersionFolder(PLACE, OWNER).pointer()


def test_the_variables_of_fsspec_name_the_store_and_its_key_too(s3: S3Server, tmp_path: Path) -> None:
    """They are read when fsspec is imported."""
    made = add(VersionFolder(PLACE, OWNER), 1)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    env = {**kept, "HOME": str(tmp_path), "AWS_EC2_METADATA_DISABLED": "true", "FSSPEC_S3_ENDPOINT_URL": s3.url,
           "FSSPEC_S3_KEY": s3.key, "FSSPEC_S3_SECRET": s3.secret}  # fmt: skip
    ask = f"""
from plugin_config.versions.manifests import VersionFolder
from tests.test_versions import OWNER
print(*VersionFolder({PLACE!r}, OWNER).names())
"""
    done = subprocess.run([sys.executable, "-c", ask], env=env, capture_output=True, text=True, timeout=120,
                          cwd=Path(__file__).parent.parent, check=False)  # fmt: skip
    assert done.stdout.split() == [made.name], done.stderr


def test_a_server_that_is_away_is_told_and_what_is_loaded_is_served_on(
    learning_house: LearningHouse, s3: S3Server, tmp_path: Path
) -> None:
    house = learning_house
    house.settings = replace(house.settings, versions=PLACE)
    house.read_otherwise(WEIGHTS)
    house.annotate(3, digest="one")
    house.look()
    other = elsewhere(house, tmp_path / "other")
    before = serve(other, house)
    s3.process.kill()
    s3.process.wait()
    assert serve(other, house) == before, "Redis' copy and the adapter in memory are enough"
    with pytest.raises(VersionsUnavailable, match=r"connect.*correct ZEROMASK_VERSIONS.*AWS_ENDPOINT_URL"):
        house.folder.pointer()


def test_a_worker_without_s3fs_ends_at_once_and_names_the_extra(tmp_path: Path, redis_url: str) -> None:
    (tmp_path / "s3fs.py").write_text("raise ImportError('there is none')\n")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ZEROMASK_", "AWS_"))}
    env = {**kept, "REDIS_URL": redis_url, "LABEL_STUDIO_URL": "http://127.0.0.1:9", "LABEL_STUDIO_API_KEY": "x",
           "MODEL": "builtin", "ZEROMASK_VERSIONS": PLACE, "ZEROMASK_STATE_DIR": str(tmp_path / "state"),
           "PYTHONPATH": str(tmp_path)}  # fmt: skip
    done = subprocess.run([sys.executable, "-m", "worker"], env=env, capture_output=True, text=True, timeout=120,
                          cwd=Path(__file__).parent.parent, check=False)  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        f"zeromask worker: {PLACE}: cannot be opened (Install s3fs to access S3). Install the extra s3 from the clone: "
        'pip install ".[worker,s3]" (docs/guide/deployment.md#install).'
    )  # fmt: skip


def test_the_backend_of_up_gets_the_key_of_the_store_and_of_no_other_place(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTHER_TOKEN", "x")
    passed = services._store_access(Settings(versions=PLACE))
    assert set(passed) >= set(s3.environ())
    assert "OTHER_TOKEN" not in passed
    assert services._store_access(Settings(versions="/srv/versions")) == {}
