"""The doctor on a real Label Studio, Redis and backend: a set-up in order and many broken ones; and connecting."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from plugin_config.cli.connect import connect_project
from plugin_config.cli.disconnect import disconnect_project
from plugin_config.doctor.checkup import PROJECT_CHECKS, examine
from plugin_config.doctor.findings import Finding, first_cause
from plugin_config.doctor.installation import Installation
from plugin_config.errors import LabelStudioError
from plugin_config.label_studio.connecting import models
from plugin_config.label_studio.webhooks import SECRET_HEADER, webhooks
from plugin_config.local.supervisor import free_port
from plugin_config.queue.order import HEAD_BELOW, ProjectOrder
from plugin_config.queue.presence import WorkerPresence
from tests.broken_set_ups import SET_UPS, Bench, SetUp, another_backend
from tests.house import (
    CONFIG,
    PATIENCE_S,
    REFUSED_HOST,
    House,
    make_project,
    picture,
    retrieve,
    upload,
    wait_predicted,
    wait_shown,
    wait_until,
)
from tests.house import tasks as tasks_of
from tests.http_server import serving

ROOT = Path(__file__).resolve().parent.parent
CLEAN = {name: value for name, value in os.environ.items()
         if name not in {"REDIS_URL", "MODEL"} and not name.startswith(("LABEL_STUDIO_", "ZEROMASK_"))}  # fmt: skip


@pytest.fixture(scope="module", name="healthy")
def healthy_fixture(house: House) -> int:
    """A project with nothing wrong: connected, predicted, its predictions shown."""
    project = make_project(house, count=1, name="healthy")
    retrieve(house, project)
    wait_shown(house, project, wait_predicted(house, project))
    return project


@pytest.fixture(name="bench")
def bench_fixture(house: House, redis_url: str, tmp_path: Path, healthy: int) -> Iterator[Bench]:
    """A set-up in order. The house runs no learner, so its sign of life is given here."""
    environ = {
        "LABEL_STUDIO_URL": house.settings.label_studio_url, "REDIS_URL": house.services.redis_url,
        "LABEL_STUDIO_API_KEY": house.settings.label_studio_api_key, "MODEL": house.settings.model,
        "ZEROMASK_PORT": str(house.settings.port), "ZEROMASK_STATE_DIR": str(tmp_path / "state"),
        "ZEROMASK_THREADS": "1",
    }  # fmt: skip
    learners, over, name = WorkerPresence(house.redis, learners=True), threading.Event(), "learner of the tests"

    def live() -> None:
        while not over.wait(2):
            learners.heartbeat(name, {"model": "builtin"})

    learners.heartbeat(name, {"model": "builtin"})
    beating = threading.Thread(target=live, daemon=True)
    beating.start()
    try:
        yield Bench(house, redis_url, tmp_path, healthy, environ, healthy)
    finally:
        over.set()
        beating.join()
        learners.remove(name)


def findings_of(bench: Bench) -> Iterator[Finding]:
    with Installation(bench.environ, (bench.project,), draw=bench.draw) as installation:
        yield from examine(installation)


@pytest.mark.parametrize("set_up", SET_UPS, ids=lambda row: row.broken)
def test_the_cause_is_named_first(bench: Bench, set_up: SetUp) -> None:
    with set_up.make(bench):
        found = []
        for finding in findings_of(bench):
            found.append(finding)
            if finding.state == "wrong":  # nothing that comes later changes what is named first
                break
    cause = first_cause(found)
    assert cause is not None, found
    assert cause.check == set_up.check, cause
    assert set_up.says in cause.sentence
    assert set_up.remedy in cause.remedy


def test_a_set_up_in_order_gives_no_finding_and_a_mask(bench: Bench) -> None:
    bench.draw = True
    found = list(findings_of(bench))
    assert [(row.check, row.sentence) for row in found if row.state != "ok"] == []
    (drawn,) = [row for row in found if row.check == "mask"]
    assert drawn.sentence.startswith("3 regions (1 'red/thing', 1 'blue shape', 1 'green shape')")
    assert Path(drawn.picture).read_bytes().startswith(b"\x89PNG")
    (labels,) = [row.labels for row in found if row.labels]
    assert [(row.label, row.filled) for row in labels] == [
        ("red/thing", "brush, one per thing"), ("blue shape", "polygon, one per thing"),
        ("green shape", "rectangle, one per thing"),
    ]  # fmt: skip


def test_a_model_that_cannot_be_loaded_is_told(bench: Bench) -> None:
    bench.draw = True
    bench.environ |= {"REDIS_URL": bench.redis_url, "MODEL": "/nowhere/weights.pt"}  # where no worker has another one
    found = {row.check: row for row in findings_of(bench)}
    assert (found["words"].state, "/nowhere/weights.pt" in found["words"].sentence) == ("wrong", True)
    assert (found["image"].state, found["mask"].state) == ("ok", "waits")


def test_one_broken_thing_hides_no_other(bench: Bench) -> None:
    bench.environ["REDIS_URL"] = f"unix://{bench.folder}/nobody.sock"
    found = {row.check: row for row in findings_of(bench)}
    assert found["redis"].state == "wrong"
    assert {name for name, row in found.items() if row.state == "waits"} == {
        "redis memory", "redis persistence", "workers", "learner", "same model", "tasks",
    }  # fmt: skip
    assert found["tasks"].sentence == "not checked before these are in order: redis"
    fine = {"label studio", "token", "clock", "project", "model", "webhook", "image", "predictions", "shown version"}
    assert {found[name].state for name in fine} == {"ok"}


def test_a_backend_that_does_not_run_hides_no_webhook(bench: Bench) -> None:
    (stopped,) = [row for row in SET_UPS if row.broken == "the backend that is connected does not run"]
    with stopped.make(bench):
        found = {row.check: row for row in findings_of(bench)}
    assert [found[name].state for name in ("model", "same model", "webhook", "interactive")] == [
        "wrong", "waits", "ok", "ok",
    ]  # fmt: skip


def test_without_label_studio_every_check_of_a_project_waits(bench: Bench) -> None:
    bench.environ["LABEL_STUDIO_URL"] = f"http://localhost:{free_port()}"
    found = [row for row in findings_of(bench) if row.project is not None]
    assert {row.state for row in found} == {"waits"}
    assert {row.check for row in found} == {check.name for check in PROJECT_CHECKS} - {"words", "mask"}


def zeromask(*arguments: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "plugin_config.cli", *arguments]
    return subprocess.run(command, env={**CLEAN, **env}, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S,
                          check=False)  # fmt: skip


def test_the_command_finds_the_connected_projects_and_ends_with_0(bench: Bench) -> None:
    done = zeromask("doctor", "--json", "--no-mask", env=bench.environ)
    told = json.loads(done.stdout)
    assert (done.returncode, told["ok"]) == (0 if told["ok"] else 1, done.returncode == 0), done.stderr
    (projects,) = [row["sentence"] for row in told["findings"] if row["check"] == "projects"]
    assert str(bench.healthy) in projects
    of_project = [row for row in told["findings"] if row.get("project") == bench.healthy]
    assert {row["state"] for row in of_project} == {"ok"}


def test_the_command_prints_lines_with_remedies_and_ends_with_1(bench: Bench) -> None:
    bench.environ["LABEL_STUDIO_API_KEY"] = "f" * 40
    done = zeromask("doctor", "12", env=bench.environ)
    assert done.returncode == 1
    assert "WRONG   token  GET /api/current-user/whoami: was refused (HTTP 401)" in done.stdout
    assert "\n        -> Create a personal access token" in done.stdout
    assert done.stdout.rstrip().endswith("Begin with: token.")
    assert bench.environ["LABEL_STUDIO_API_KEY"] not in done.stdout + done.stderr


def unconnected(house: House, *, count: int = 2) -> int:
    body = {"title": "house to connect", "label_config": CONFIG.format(more="")}
    project = int(house.label_studio.request("POST", "/api/projects/", json=body)["id"])
    upload(house, project, [picture(top=20 + 2 * i) for i in range(count)])
    return project


def test_connecting_does_all_that_the_doctor_asks_for(house: House, bench: Bench) -> None:
    bench.project = project = unconnected(house)
    told = list(connect_project(house.label_studio, house.redis, house.settings, project))
    assert told[1].startswith(f"The backend is connected at {house.services.backend_url}")
    version = wait_predicted(house, project)
    wait_shown(house, project, version)
    assert [row.state for row in findings_of(bench) if row.project == project and row.state != "ok"] == []
    found = house.label_studio.project(project)
    assert (found.sampling, found.model_version) == ("Uncertainty sampling", version)
    again = list(connect_project(house.label_studio, house.redis, house.settings, project))
    assert again[1:5] == [
        f"The backend was connected at {house.services.backend_url}; clicks with smart tools ask it.",
        "Its webhook was there.",
        "Label All Tasks hands out the image that teaches most next, as before.",
        f"Annotators were shown {version}.",
    ]
    assert (len(models(house.label_studio, project)), len(webhooks(house.label_studio, project))) == (1, 1)


def test_disconnecting_undoes_what_connecting_set_and_keeps_what_was_predicted(house: House) -> None:
    project = unconnected(house)
    list(connect_project(house.label_studio, house.redis, house.settings, project))
    version = wait_predicted(house, project)
    wait_shown(house, project, version)
    order = ProjectOrder(house.redis)
    wait_until(lambda: len(order.places(project)) == 2 and all(score < HEAD_BELOW for score in scores(house, project)))
    told = list(disconnect_project(house.label_studio, house.redis, house.settings, project))
    assert told[1:] == [
        f"'{house.services.backend_url}' is disconnected.",
        "Its waiting tasks are dropped, and no worker or learner looks at it any more.",
        "Label All Tasks goes by 'Sequential sampling' again.",
        "The scores of 2 predictions are no places in an order any more.",
        f"Predictions and what was learned stay; `zeromask connect {project}` goes on from there.",
    ]
    assert (models(house.label_studio, project), webhooks(house.label_studio, project)) == ([], [])
    assert house.label_studio.project(project).sampling == "Sequential sampling"
    assert all(score >= HEAD_BELOW for score in scores(house, project)) and len(scores(house, project)) == 2
    assert project not in house.pending.projects()
    upload(house, project, [picture(top=30)])  # nobody is told of it, and nobody looks
    list(connect_project(house.label_studio, house.redis, house.settings, project))
    assert wait_predicted(house, project) == version


def scores(house: House, project: int) -> list[float]:
    return [row.score or 0.0 for task in tasks_of(house, project) for row in house.label_studio.predictions(task.id)]


def test_connecting_mends_a_webhook_and_keeps_what_a_person_chose(house: House) -> None:
    project = make_project(house, count=1)
    (hook,) = webhooks(house.label_studio, project)
    house.label_studio.request("PATCH", f"/api/webhooks/{hook.id}/", json={"is_active": False})
    house.label_studio.request("PATCH", f"/api/projects/{project}/", json={"sampling": "Uniform sampling"})
    guarded = replace(house.settings, webhook_secret="a secret of webhooks", user="u", password="a long password")
    told = "\n".join(connect_project(house.label_studio, house.redis, guarded, project, predict=False))
    assert "Its webhook is switched on and carries the secret now." in told
    assert "The order of tasks is left as a person chose it (Uniform sampling)" in told
    (hook,) = webhooks(house.label_studio, project)
    assert (hook.active, hook.carries(SECRET_HEADER, "a secret of webhooks")) == (True, True)
    assert models(house.label_studio, project)[0].user == "u"


def test_a_refused_address_changes_nothing_and_names_both_variables(house: House) -> None:
    project = unconnected(house, count=1)
    url = f"http://{REFUSED_HOST}:{house.settings.port}"
    with pytest.raises(LabelStudioError, match=r"ML_BLOCK_LOCAL_IP=false and SSRF_PROTECTION_ENABLED=false"):
        list(connect_project(house.label_studio, house.redis, house.settings, project, url=url))
    assert (models(house.label_studio, project), webhooks(house.label_studio, project)) == ([], [])
    assert house.label_studio.project(project).sampling == "Sequential sampling"


def test_a_backend_that_does_not_run_is_not_connected(house: House) -> None:
    project = unconnected(house, count=1)
    nowhere = replace(house.settings, port=free_port())
    with pytest.raises(LabelStudioError, match=r"does not connect .* Start the backend") as caught:
        list(connect_project(house.label_studio, house.redis, nowhere, project))
    assert "<a" not in str(caught.value)
    assert (models(house.label_studio, project), webhooks(house.label_studio, project)) == ([], [])


def test_a_backend_is_moved_to_another_address(house: House) -> None:
    project = make_project(house, count=1)
    url = f"http://localhost:{house.settings.port}"
    told = list(connect_project(house.label_studio, house.redis, house.settings, project, url=url, predict=False))
    assert f"'{house.services.backend_url}' is disconnected." in told
    assert [row.url for row in models(house.label_studio, project)] == [url]
    assert [hook.url for hook in webhooks(house.label_studio, project)] == [f"{url}/webhook"]


def test_another_model_stays_until_it_is_to_be_replaced(house: House) -> None:
    project = unconnected(house, count=1)
    with serving(another_backend) as server:
        body = {"project": project, "url": server.url, "title": "Other"}
        house.label_studio.request("POST", "/api/ml/", json=body)
        told = list(connect_project(house.label_studio, house.redis, house.settings, project, predict=False))
        assert [row.title for row in models(house.label_studio, project)] == ["Other", "Zeromask"]
        assert any("Label Studio asks the first model only" in sentence for sentence in told)
        list(connect_project(house.label_studio, house.redis, house.settings, project, replace=True, predict=False))
    assert [row.title for row in models(house.label_studio, project)] == ["Zeromask"]
    urls = [hook.url for hook in webhooks(house.label_studio, project)]
    assert urls == [f"{house.services.backend_url}/webhook"]


def test_probes_store_nothing(house: House, bench: Bench) -> None:
    project = bench.healthy
    before = [len(house.label_studio.predictions(task.id)) for task in tasks_of(house, project)]
    list(findings_of(bench))
    assert (len(models(house.label_studio, project)), len(webhooks(house.label_studio, project))) == (1, 1)
    assert [len(house.label_studio.predictions(task.id)) for task in tasks_of(house, project)] == before
