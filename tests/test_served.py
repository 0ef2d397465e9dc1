"""What a worker serves: from the disk, in agreement with the others, and zero-shot with a reason where it cannot."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from redis import Redis
from rich.console import Console

from plugin_config.cli.main import zeromask
from plugin_config.cli.status import as_json, render
from plugin_config.errors import LearningError, VersionsUnavailable
from plugin_config.model_version import ZEROSHOT, ModelVersion
from plugin_config.overview.control import QueueControl
from plugin_config.queue.presence import WorkerPresence
from plugin_config.versions.manifests import VerdictRecord
from plugin_config.versions.rollback import roll_back
from plugin_config.versions.served import ServedAdapters, ServedCopy
from tests.learning_house import WEIGHTS, LearningHouse, OneNumber, learning_house_fixture, segmenter_with
from tests.stand_ins import PROJECT, version
from worker.service.adapter_store import save_adapter
from worker.service.adapters import ProjectAdapters
from worker.service.plan import read_plan

__all__ = ["learning_house_fixture"]  # pytest finds the fixture by its being here


@pytest.fixture
def house(learning_house: LearningHouse) -> LearningHouse:
    """With a version that is served."""
    learning_house.annotate(3, digest="one")
    learning_house.look()
    return learning_house


def cache(house: LearningHouse, *, weights: str = WEIGHTS, place: Path | None = None) -> ProjectAdapters:
    """Of another worker, which predicts."""
    settings = replace(house.settings, versions=str(place)) if place else house.settings
    return ProjectAdapters(settings, house.redis, segmenter_with(weights))


def serve(found: ProjectAdapters, house: LearningHouse, *, from_disk: bool = True) -> tuple[str, float]:
    """The name, and the number that was learned; 0 = nothing."""
    name, adapter = found.served(house.label_studio.project(PROJECT), from_disk=from_disk)
    made: Any = adapter
    return name, made.number if made else 0.0


def test_what_is_served_comes_with_the_corrections_it_was_trained_on(house: LearningHouse, tmp_path: Path) -> None:
    project = house.label_studio.project(PROJECT)
    adapters = house.resident.adapters
    adapter, keys = adapters.served_with_keys(project)
    assert adapter is adapters.served(project)[1]
    assert keys == adapters.adapter(house.folder, house.served)[0].learned_from != ()
    (path,) = tmp_path.rglob("adapter.safetensors")
    path.write_bytes(b"")
    assert cache(house).served_with_keys(project) == (None, ())


def copy_of(house: LearningHouse) -> ServedCopy:
    found = ServedAdapters(house.redis).copy(PROJECT, "builtin")
    assert found is not None
    return found


def test_the_version_of_a_prediction_names_what_it_was_made_with(house: LearningHouse) -> None:
    plan = read_plan(house.resident, PROJECT)
    assert ModelVersion.parse(plan.version) == ModelVersion.parse(version(adapter=house.served))
    assert plan.version.startswith("builtin v001 number +2 corrected (20"), "with the recipe, as it is not `quick`"
    assert plan.adapter is not None


def test_predictions_keep_the_version_that_an_earlier_release_stamped_on_them(house: LearningHouse) -> None:
    former = ModelVersion.parse(read_plan(house.resident, PROJECT).version)
    assert former is not None
    house.resident.ledger.start_rollout(PROJECT, former.identity)
    assert read_plan(house.resident, PROJECT).version == former.identity


def test_a_worker_reads_the_disk_where_redis_knows_nothing(house: LearningHouse) -> None:
    house.redis.flushall()
    assert serve(cache(house), house, from_disk=False) == (house.served, 1.0)
    assert copy_of(house).served == house.served


def test_what_annotators_did_is_known_for_metrics_too(house: LearningHouse) -> None:
    outcomes = {"cat": {"accepted": 3, "changed": 1, "deleted": 0, "added": 2}}
    house.folder.point(replace(house.folder.pointer(), attempt=replace(house.attempt, outcomes=outcomes)))
    serve(cache(house), house)
    assert ServedAdapters(house.redis).outcomes(PROJECT) == {"builtin": outcomes}


def test_a_moved_pointer_is_served_at_once(house: LearningHouse) -> None:
    mine = cache(house)
    assert serve(mine, house) == (house.served, 1.0)
    roll_back(house.redis, PROJECT, "builtin")
    assert serve(mine, house, from_disk=False) == (ZEROSHOT, 0.0)
    roll_back(house.redis, PROJECT, "builtin", "a1")
    assert serve(mine, house, from_disk=False) == (house.served, 1.0)


@pytest.mark.parametrize("file", ["adapter.safetensors", "manifest.json"])
@pytest.mark.parametrize("from_disk", [True, False])
def test_what_is_damaged_is_not_served_the_reason_is_told_and_mending_it_is_enough(
    house: LearningHouse, tmp_path: Path, file: str, from_disk: bool
) -> None:
    (path,) = tmp_path.rglob(file)
    content = path.read_bytes()
    path.write_bytes(content[:-5])
    mine = cache(house)
    assert serve(mine, house, from_disk=from_disk) == (ZEROSHOT, 0.0)
    assert "damaged" in copy_of(house).trouble
    state = QueueControl(house.redis, house.settings).state()
    (row,) = as_json(state)["learning"]
    assert (row["served"], "damaged" in row["trouble"]) == (ZEROSHOT, True)
    assert render(state)
    path.write_bytes(content)
    assert serve(mine, house) == (house.served, 1.0)
    assert copy_of(house).trouble == ""


def test_what_was_learned_on_other_weights_is_not_served(house: LearningHouse) -> None:
    assert serve(cache(house, weights="other"), house) == (ZEROSHOT, 0.0)
    assert "other weights" in copy_of(house).trouble


def test_a_new_project_of_the_same_number_is_served_zero_shot(house: LearningHouse) -> None:
    project = replace(house.label_studio.project(PROJECT), created="later")
    assert cache(house).served(project) == (ZEROSHOT, None)


def test_a_worker_with_a_folder_of_its_own_waits_and_changes_nothing(house: LearningHouse, tmp_path: Path) -> None:
    WorkerPresence(house.redis, learners=True).heartbeat("me")
    lonely, before = cache(house, place=tmp_path / "elsewhere"), copy_of(house)
    for from_disk in (True, False):
        with pytest.raises(VersionsUnavailable, match="ZEROMASK_VERSIONS"):
            serve(lonely, house, from_disk=from_disk)
    assert copy_of(house) == before


def test_where_nobody_learns_what_the_disk_says_is_true(house: LearningHouse, tmp_path: Path) -> None:
    assert serve(cache(house, place=tmp_path / "elsewhere"), house) == (ZEROSHOT, 0.0)


def test_a_place_that_is_away_leaves_what_is_served(house: LearningHouse, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = cache(house)
    serve(mine, house)

    def away(*_: Any, **__: Any) -> None:
        raise VersionsUnavailable("folder", "cannot be read", "Mount it.")

    monkeypatch.setattr("plugin_config.versions.storage.Storage.read", away)
    assert serve(mine, house) == (copy_of(house).served, 1.0)


def test_the_commands_list_and_roll_back(house: LearningHouse, redis_url: str) -> None:
    name, runner = house.served, CliRunner(env={"REDIS_URL": redis_url, "MODEL": "builtin"})
    listed = runner.invoke(zeromask, ["versions", str(PROJECT)])
    assert listed.exit_code == 0
    assert name in listed.stdout
    assert "served" in listed.stdout
    listed = runner.invoke(zeromask, ["versions", str(PROJECT), "--json"])
    assert listed.exit_code == 0
    assert json.loads(listed.stdout)["served"] == name
    moved = runner.invoke(zeromask, ["rollback", str(PROJECT)])
    assert moved.exit_code == 0
    assert f"zeroshot is served again instead of {name}" in moved.stdout
    assert house.served == ZEROSHOT
    for arguments, message in (
        (["rollback", str(PROJECT)], "nothing is before that"),
        (["rollback", str(PROJECT), "a9"], f"is none of {name}, zeroshot"),
        (["rollback", str(PROJECT), "zeroshot"], "is what is served"),
        (["rollback", "99"], "no worker has served it yet"),
        (["versions", "99"], "no worker has served it yet"),
    ):
        refused = runner.invoke(zeromask, arguments)
        assert refused.exit_code == 2
        assert refused.stderr.startswith(f"zeromask {arguments[0]}: ")
        assert message in refused.stderr
    assert runner.invoke(zeromask, ["rollback", str(PROJECT), version(adapter=name)]).exit_code == 0
    assert house.served == name


def test_versions_of_another_machine_are_neither_moved_nor_listed(house: LearningHouse, redis_url: str) -> None:
    """A folder of the same name holds what was served there some time ago."""
    served, ahead = ServedAdapters(house.redis), replace(copy_of(house), serial=copy_of(house).serial + 1)
    served.write(PROJECT, ahead)
    with pytest.raises(VersionsUnavailable, match="as seen from here"):
        roll_back(house.redis, PROJECT, "builtin")
    assert house.served != ZEROSHOT
    assert copy_of(house) == ahead
    listed = CliRunner(env={"REDIS_URL": redis_url, "MODEL": "builtin"}).invoke(zeromask, ["versions", str(PROJECT)])
    assert listed.exit_code == 2 and "as seen from here" in listed.stderr, "not as if nothing had been learned"


@pytest.fixture
def changed_model(house: LearningHouse) -> LearningHouse:
    """The project was learned for with the builtin, and workers serve it with another model since."""
    other = replace(house.settings, model="RN50/openai")
    ProjectAdapters(other, house.redis, segmenter_with("other")).served(house.label_studio.project(PROJECT))
    return house


def test_after_a_change_of_model_the_status_tells_whose_each_row_is(changed_model: LearningHouse) -> None:
    state = QueueControl(changed_model.redis, changed_model.settings).state()
    rows = {row["model"]: row["served"] for row in as_json(state)["learning"]}
    assert rows == {"builtin": changed_model.served, "RN50/openai": ZEROSHOT}
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(render(state))
    shown = [line for line in console.export_text().splitlines() if "builtin" in line or "RN50/openai" in line]
    assert [changed_model.served in line for line in shown] == ["builtin" in line for line in shown]
    assert len(shown) == 2


def test_after_a_change_of_model_nobody_moves_what_is_not_served(changed_model: LearningHouse) -> None:
    redis, before = changed_model.redis, changed_model.served
    WorkerPresence(redis).heartbeat("w", {"model": "RN50/openai"})
    with pytest.raises(LearningError, match=r"served by model RN50/openai now.*Set MODEL=RN50/openai, or start"):
        roll_back(redis, PROJECT, "builtin")
    assert changed_model.served == before
    WorkerPresence(redis).heartbeat("x", {"model": "builtin"})
    assert roll_back(redis, PROJECT, "builtin").before == before


def test_where_no_worker_lives_the_model_asked_for_is_moved(changed_model: LearningHouse) -> None:
    assert roll_back(changed_model.redis, PROJECT, "builtin").after == ZEROSHOT


def test_a_shell_without_the_model_moves_the_only_one_there_is(house: LearningHouse) -> None:
    WorkerPresence(house.redis).heartbeat("w", {"model": "builtin"})
    assert roll_back(house.redis, PROJECT, "ViT-B-16/datacomp_xl_s13b_b90k").after == ZEROSHOT


@pytest.mark.parametrize("model", ["builtin", "other-zeroshot-model-1a2b"])
def test_a_version_is_chosen_by_the_version_string_of_a_prediction(house: LearningHouse, model: str) -> None:
    name = house.served
    assert roll_back(house.redis, PROJECT, "builtin", f"{model}-{ZEROSHOT}-01234567").after == ZEROSHOT
    assert roll_back(house.redis, PROJECT, "builtin", f"{model}-{name}-01234567").after == name
    with pytest.raises(LearningError, match="none of"):
        roll_back(house.redis, PROJECT, "builtin", f"{model}-a9-abcdef-01234567")


def test_nobody_serves_a_damaged_version_by_command(house: LearningHouse, tmp_path: Path) -> None:
    name = house.served
    roll_back(house.redis, PROJECT, "builtin")
    (path,) = tmp_path.rglob("adapter.safetensors")
    path.write_bytes(b"")
    with pytest.raises(LearningError, match="damaged"):
        roll_back(house.redis, PROJECT, "builtin", name)
    assert house.served == ZEROSHOT


def test_a_version_whose_base_is_gone_goes_back_to_zero_shot(house: LearningHouse, redis: Redis) -> None:
    first = house.served
    house.annotate(6, digest="two")
    house.look()
    house.folder.prune(set())
    for name in house.folder.names():
        if name == first:
            house.folder._storage.delete(f"{name}/manifest.json")
    move = roll_back(redis, PROJECT, "builtin")
    assert (move.after, move.missing) == (ZEROSHOT, first)


OWNER = {"label_studio": "http://ls", "project": PROJECT, "created": "", "model": "builtin"}
COPY = {"served": "a1-123456", "serial": 1, "place": "p", "owner": OWNER, "trouble": ""}
ODD_COPIES = [
    pytest.param(b"\xff", id="not UTF-8"),
    pytest.param(b"[" * 100_000, id="deep"),
    pytest.param(json.dumps({**COPY, "more": 1}).encode(), id="of a newer release"),
    pytest.param(json.dumps({**COPY, "served": "a1-123456\r\nX: y"}).encode(), id="no name"),
    pytest.param(json.dumps({**COPY, "served": None}).encode(), id="null"),
    pytest.param(json.dumps({**COPY, "serial": 1e400}).encode(), id="infinite"),
    pytest.param(json.dumps({**COPY, "serial": 10**40}).encode(), id="huge"),
    pytest.param(json.dumps({**COPY, "owner": [1]}).encode(), id="list for owner"),
    pytest.param(json.dumps({**COPY, "owner": {**OWNER, "project": "7"}}).encode(), id="text for project"),
    pytest.param(b"null", id="nothing"),
]


@pytest.mark.parametrize("copy", ODD_COPIES)
def test_a_damaged_or_newer_copy_is_none_and_the_worker_makes_it_anew(
    house: LearningHouse, copy: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    served = ServedAdapters(house.redis)
    house.redis.hset(f"zeromask:{PROJECT}:adapters", "builtin", copy)
    assert [served.served(PROJECT, "builtin"), served.served(PROJECT, "builtin")] == [ZEROSHOT] * 2
    assert caplog.text.count("cannot be read") == 1, "not once a request"
    assert served.copies(PROJECT) == []
    assert serve(cache(house), house, from_disk=False) == (house.served, 1.0)
    assert served.served(PROJECT, "builtin") == house.served


ODD_FILES = [
    pytest.param(lambda row: b"[" * 200_000, id="deep"),
    pytest.param(lambda row: b"\xff\xfe", id="not UTF-8"),
    pytest.param(lambda row: b"{}", id="empty"),
    pytest.param(lambda row: b"[]", id="list"),
    pytest.param(lambda row: b"null", id="null"),
    pytest.param(lambda row: b"\x00" * 1000, id="zeros"),
    pytest.param(lambda row: json.dumps({**row, "more": 1}).encode(), id="of a newer release"),
    pytest.param(lambda row: json.dumps({**row, "served": 5, "sha256": 5}).encode(), id="number for text"),
    pytest.param(lambda row: json.dumps({**row, "serial": 1e400, "size": 1e400}).encode(), id="infinite"),
    pytest.param(lambda row: json.dumps({**row, "serial": "1", "size": "1"}).encode(), id="text for number"),
    pytest.param(lambda row: json.dumps({**row, "rejected": [{}], "learned_from": [[]]}).encode(), id="odd lists"),
    pytest.param(lambda row: json.dumps({**row, "attempt": [], "verdict": []}).encode(), id="odd parts"),
]


@pytest.mark.parametrize("file", ["served.json", "manifest.json"])
@pytest.mark.parametrize("damage", ODD_FILES)
def test_whatever_stands_in_a_file_of_versions_the_project_is_served_and_the_reason_told(
    house: LearningHouse, tmp_path: Path, file: str, damage: Callable[[dict[str, Any]], bytes]
) -> None:
    (path,) = tmp_path.rglob(file)
    content = path.read_bytes()
    row = json.loads(content)
    name = row["served"] if file == "served.json" else row["name"]
    path.write_bytes(damage(row))
    assert serve(cache(house), house) == (ZEROSHOT, 0.0)
    assert "is damaged" in copy_of(house).trouble
    house.annotate(6, digest="two")
    assert house.look(pressed=True).state in ("blocked", "idle"), "the learner lives, too"
    path.write_bytes(content)
    assert serve(cache(house), house)[0].startswith("a") or name == ZEROSHOT


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_whole_files_that_hold_no_numbers_are_not_served(house: LearningHouse, value: float) -> None:
    adapter: Any = OneNumber(value)
    verdict = VerdictRecord(True, "forged")
    save_adapter(house.folder, adapter, newest=1, weights=WEIGHTS, base=ZEROSHOT, digest="d", learned_from=(),
                 verdict=verdict)  # fmt: skip
    name = house.folder.names()[-1]
    house.folder.point(house.folder.pointer().moved(name, by="somebody"))
    assert serve(cache(house), house) == (ZEROSHOT, 0.0)
    assert "holds no numbers" in copy_of(house).trouble


def test_what_turns_out_to_be_of_no_use_is_served_no_more_until_another_is(house: LearningHouse) -> None:
    mine, name = cache(house), house.served
    assert serve(mine, house) == (name, 1.0)
    error = LearningError("what was learned", "gives no numbers", "Learn again.")
    mine.refuse(house.label_studio.project(PROJECT), name, error)
    for from_disk in (False, True):
        assert serve(mine, house, from_disk=from_disk) == (ZEROSHOT, 0.0)
    assert copy_of(house).trouble == f"version {name}: gives no numbers. Learn again."
    house.annotate(6, digest="two")
    house.look()
    assert serve(mine, house) == (house.served, 2.0)


@pytest.mark.parametrize("kept_s", [None, 86400])
def test_a_hold_on_the_pointer_that_nobody_here_wrote_holds_up_nobody(house: LearningHouse, kept_s: int | None) -> None:
    house.redis.set(f"zeromask:{PROJECT}:pointer", "x", ex=kept_s)
    assert serve(cache(house), house) == (house.served, 1.0)
    assert b"a lock that lasts too long" in house.redis.lrange("zeromask:odd", 0, 0)[0]
