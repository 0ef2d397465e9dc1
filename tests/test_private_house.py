"""A running product shows other users nothing: not by its files, its environments or its command lines."""

from __future__ import annotations

import psutil
import pytest

from plugin_config.local.embedded_redis import running_redis_url
from plugin_config.settings import Settings, setting_names
from tests.house import TOKEN, House, make_project, retrieve, wait_predicted
from tests.modes import modes, open_to_others


def test_what_stands_on_the_house_runs_beside_the_others(house: House, request: pytest.FixtureRequest) -> None:
    assert request.node.get_closest_marker("label_studio")


def test_nothing_in_the_state_folder_is_open_to_others(house: House) -> None:
    """Under the usual umask; Label Studio's database holds the token, the append-only file what was asked for."""
    project = make_project(house, count=1)
    retrieve(house, project)
    wait_predicted(house, project)
    state = house.supervisor.log_path("worker").parent.parent
    found = modes(state)
    for name in ("label-studio/label_studio.sqlite3", "redis/redis.conf", "redis/redis.sock", "logs/worker.log",
                 "processes.json", "lock"):  # fmt: skip
        assert name in found
    assert any(name.startswith("texts/") for name in found)
    assert any(name.endswith(".incr.aof") for name in found)
    assert any(name.startswith("label-studio/media/upload/") for name in found)
    left = open_to_others(state)
    # Django sets the rights of what is uploaded itself. Other users cannot reach them: every folder above is closed.
    assert {name for name in left if not name.startswith("label-studio/media/upload/")} == set(), left
    assert not any((state / name).is_dir() for name in left)


def test_each_process_is_told_what_it_reads_and_nothing_on_its_command_line(house: House) -> None:
    processes = {name: psutil.Process(house.supervisor.pid(name)) for name in ("backend", "worker", "redis")}
    told = {name: process.environ() for name, process in processes.items()}
    assert TOKEN in told["worker"].values()
    assert not any(TOKEN in value for name in ("backend", "redis") for value in told[name].values())
    assert not {"LABEL_STUDIO_URL", "LABEL_STUDIO_API_KEY"} & set(told["backend"])
    assert not {"ZEROMASK_USER", "ZEROMASK_PASSWORD"} & set(told["worker"])
    assert not setting_names() & set(told["redis"])
    state = str(house.supervisor.log_path("worker").parent.parent)
    password = running_redis_url(Settings(state_dir=state)).split("@")[0].rpartition(":")[2]
    names = ("backend", "worker", "redis", "label-studio")
    family = [psutil.Process(house.supervisor.pid(name)) for name in names]
    family += [child for process in family for child in process.children(recursive=True)]
    assert not any(secret in part for process in family for part in process.cmdline() for secret in (TOKEN, password))
