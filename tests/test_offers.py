"""An adapter that a person offers: judged by a learner, served where it is better, else refused in one sentence."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from click.testing import CliRunner
from redis import Redis

from plugin_config.cli import offer as command
from plugin_config.cli.main import zeromask
from plugin_config.cli.versions import as_json, render
from plugin_config.errors import LabelStudioUnreachable, LearningError, VersionsUnavailable
from plugin_config.model_version import ZEROSHOT
from plugin_config.queue.jobs import LearnProject
from plugin_config.queue.keys import ProjectKeys
from plugin_config.queue.offers import Offer, OfferAnswer, ProjectOffers
from plugin_config.queue.pending import MAX_ATTEMPTS
from plugin_config.versions.manifests import OFFERED, Contender, Pointer, VersionFolder
from plugin_config.versions.rollback import roll_back
from plugin_config.versions.storage import Storage
from tests.learning_house import WEIGHTS, LearningHouse, OneNumber, learning_house_fixture
from tests.queue_states import time_passes
from tests.stand_ins import PROJECT
from worker.learning.adapter_files import save_adapter_folder
from worker.segmentation.segmenter import Segmenter
from worker.service.trainer import offer_round

__all__ = ["learning_house_fixture"]  # pytest finds the fixture by its being here

ENOUGH = frozenset(range(2, 26))
"""Annotated tasks beside task 1."""


def write_folder(folder: Path, number: float = 3.0, *, weights: str = WEIGHTS, model: str = "builtin") -> Path:
    """What `zeromask train` would write."""
    segmenter = cast("Segmenter", SimpleNamespace(encoder=SimpleNamespace(name=model, fingerprint=weights)))
    save_adapter_folder(folder, OneNumber(number), segmenter, {"data": "drawn:words", "steps": 3})
    return folder


@pytest.fixture
def house(learning_house: LearningHouse) -> LearningHouse:
    """25 images are corrected, and a learner lives."""
    learning_house.others = ENOUGH
    learning_house.annotate(25, digest="one")
    learning_house.resident.presence.heartbeat("me", {"model": "builtin"})
    learning_house.resident.adapters.served(learning_house.label_studio.project(PROJECT))
    return learning_house


def ask(house: LearningHouse, folder: Path, name: str = "offer-0123456789ab") -> Offer:
    """Put a folder where the learner finds it, and ask."""
    files = command.read_adapter_files(folder)
    asked = Offer(name, files.model, files.source, "2026-01-01T00:00:00+00:00")
    house.folder.add_offer(asked.name, files.record, files.data)
    ProjectOffers(house.redis).ask(PROJECT, asked)
    return asked


def contender_of(house: LearningHouse) -> Contender:
    return house.folder.pointer().contenders[OFFERED]


def answered(house: LearningHouse) -> OfferAnswer:
    house.learner.learn(LearnProject(project=PROJECT))
    found = ProjectOffers(house.redis).answered(PROJECT)
    assert found is not None
    return found


def test_what_is_better_is_served_as_a_version_and_can_be_rolled_back(house: LearningHouse, tmp_path: Path) -> None:
    ask(house, write_folder(tmp_path / "run"))
    told = answered(house)
    assert (told.promoted, told.reason, told.refusal) == (True, "promoted at strength 1: better.", ())
    assert told.served == house.served != ZEROSHOT
    manifest, adapter = house.resident.adapters.adapter(house.folder, house.served)
    assert cast("OneNumber", adapter).number == 3.0, "the offered tensors, nothing that was fitted here"
    assert manifest.learned_from == (), "its corrections were not learned from"
    contender = contender_of(house)
    assert (contender.version, contender.verdict.promoted) == (house.served, True)
    assert "number trained on drawn:words" in contender.source
    assert ProjectOffers(house.redis).waiting(PROJECT) is None
    assert not list(Path(house.settings.versions_url).rglob("offer-*"))
    assert house.redis.exists(ProjectKeys(PROJECT).refresh), "its predictions are to be made again"
    shown = render(house.folder, "")
    assert "number trained on drawn:words" in str(list(shown.columns[3].cells)[-1])
    assert as_json(house.folder, "")["contenders"][OFFERED]["version"] == house.served
    assert roll_back(house.redis, PROJECT, "builtin").after == ZEROSHOT


def test_what_is_no_better_is_told_and_changes_nothing(house: LearningHouse, tmp_path: Path) -> None:
    house.promotes = False
    ask(house, write_folder(tmp_path / "run"))
    told = answered(house)
    assert (told.promoted, told.served, told.reason) == (False, ZEROSHOT, "kept what is served: no better.")
    assert house.folder.names() == []
    assert "kept what is served: no better." in str(render(house.folder, "").caption)


@pytest.mark.parametrize("promotes", [True, False], ids=["better", "no better"])
def test_an_adapter_of_a_leaked_training_is_called_so_wherever_it_is_shown(
    promotes: bool, house: LearningHouse, tmp_path: Path
) -> None:
    house.promotes = promotes
    folder = write_folder(tmp_path / "run")
    manifest = json.loads((folder / "adapter.json").read_text())
    manifest["about"]["leaked"] = True
    (folder / "adapter.json").write_text(json.dumps(manifest))
    asked = ask(house, folder)
    told = answered(house)
    assert told.reason.endswith("better. It is leaked: its training knew where unseen labels are.")
    assert "leaked" in getattr(house.learning.progress(PROJECT), "detail", ""), "as `zeromask status` shows it"
    shown = render(house.folder, "")
    assert f"offered: number (leaked) trained on drawn:words, at {contender_of(house).at}: {told.reason}" in str(
        shown.caption
    )
    if promotes:
        learned_from, verdict = (str(list(shown.columns[column].cells)[-1]) for column in (3, 5))
        assert "number (leaked) trained on" in learned_from
        assert verdict == told.reason
    assert asked.source == "number (leaked) trained on drawn:words"


def test_an_offer_does_not_touch_what_is_known_of_the_corrections(house: LearningHouse, tmp_path: Path) -> None:
    house.look()
    before = house.attempt
    house.promotes = False
    ask(house, write_folder(tmp_path / "run"))
    answered(house)
    assert house.attempt == before
    house.look()
    assert len(house.judged) == 2, "the same corrections are not learned from again"
    assert OFFERED in house.folder.pointer().contenders


def test_what_is_corrected_later_is_learned_on_top_of_an_offer(house: LearningHouse, tmp_path: Path) -> None:
    ask(house, write_folder(tmp_path / "run"))
    answered(house)
    house.annotate(30, digest="two")
    house.look()
    served, seen = house.judged[-1]
    assert served.number == 3.0, "quick's candidate is compared with the offer that is served"
    assert seen == ()


def test_labels_that_only_tasks_bring_along_are_judged_too(house: LearningHouse, tmp_path: Path) -> None:
    house.brought = ("wug",)
    house.label_studio.config = (
        '<View><Image name="i" value="$image"/><BrushLabels name="b" toName="i" value="$labels"/></View>'
    )
    ask(house, write_folder(tmp_path / "run"))
    assert answered(house).promoted
    assert house.words == (("wug",),)


@pytest.mark.parametrize("corrected", [0, 1, 19])
def test_fewer_than_twenty_corrected_images_are_refused_by_number(
    corrected: int, house: LearningHouse, tmp_path: Path
) -> None:
    house.mark = type(house.mark)(corrected, "x", corrected)
    ask(house, write_folder(tmp_path / "run"))
    subject, problem, remedy = answered(house).refusal
    assert subject == f"project {PROJECT}"
    assert f"has {corrected} corrected image" in problem
    assert f"Correct {20 - corrected} more" in remedy
    assert house.judged == []


def test_images_that_cannot_be_read_do_not_count(house: LearningHouse, tmp_path: Path) -> None:
    house.away = frozenset(range(2, 12))
    ask(house, write_folder(tmp_path / "run"))
    _, problem, _ = answered(house).refusal
    assert "has 15 corrected images" in problem
    assert "HTTP 503" in problem


def unreachable(house: LearningHouse, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    def refuse(*_: object) -> Any:
        raise LabelStudioUnreachable("GET project", "there is no answer", "Start Label Studio.")

    monkeypatch.setattr(house.label_studio, "project", refuse)


def gone(house: LearningHouse, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    house.label_studio.gone = True


def no_room(house: LearningHouse, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("plugin_config.versions.storage._write_durably", full)


def lost(house: LearningHouse, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    house.folder.delete_offer("offer-0123456789ab")


def broken(house: LearningHouse, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(offer_round, "judge", fail)


@pytest.mark.parametrize(
    ("happens", "message"),
    [
        pytest.param(unreachable, "there is no answer. Start Label Studio.", id="Label Studio away"),
        pytest.param(gone, "404", id="project gone"),
        pytest.param(no_room, "No space left", id="disk full"),
        pytest.param(lost, "ZEROMASK_VERSIONS", id="files elsewhere"),
        pytest.param(broken, "shapes do not match", id="does not fit"),
    ],
)
def test_what_hinders_an_offer_is_told_in_one_sentence_and_nothing_is_half_written(
    happens: Callable[[LearningHouse, pytest.MonkeyPatch, Path], None], message: str, house: LearningHouse,
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:  # fmt: skip
    folder = house.folder
    ask(house, write_folder(tmp_path / "run"))
    with monkeypatch.context() as patch:
        happens(house, patch, tmp_path)
        told = answered(house)
    assert message in str(LearningError(*told.refusal))
    assert folder.pointer().contenders == {}
    assert folder.names() == []
    assert ProjectOffers(house.redis).waiting(PROJECT) is None


@pytest.mark.parametrize(
    ("number", "weights", "message"),
    [
        pytest.param(3.0, "other", "other weights", id="other weights"),
        pytest.param(float("nan"), WEIGHTS, "NaN", id="no numbers"),
    ],
)
def test_an_adapter_that_cannot_be_served_is_refused(
    number: float, weights: str, message: str, house: LearningHouse, tmp_path: Path
) -> None:
    ask(house, write_folder(tmp_path / "run", number, weights=weights))
    assert message in str(LearningError(*answered(house).refusal))


def test_a_learner_that_dies_after_it_moved_the_pointer_has_answered_all_the_same(
    house: LearningHouse, tmp_path: Path
) -> None:
    asked = ask(house, write_folder(tmp_path / "run"))
    first = answered(house)
    house.folder.add_offer(asked.name, b"", b"")
    ProjectOffers(house.redis).ask(PROJECT, asked)
    assert answered(house) == first
    assert len(house.judged) == 1


def test_one_that_is_told_to_stop_leaves_the_offer_asked_for(house: LearningHouse, tmp_path: Path) -> None:
    asked = ask(house, write_folder(tmp_path / "run"))
    house.resident.stopping.set()
    house.learner.learn(LearnProject(project=PROJECT))
    assert ProjectOffers(house.redis).waiting(PROJECT) == asked
    assert ProjectOffers(house.redis).answered(PROJECT) is None
    assert house.served == ZEROSHOT
    assert ProjectOffers(house.redis).begin(PROJECT, asked, "next") == 0, "it has not died"


def die(house: LearningHouse, name: str) -> None:
    """A learner in a process of its own is killed by the system while it judges; then its lease runs out."""
    house.learning.request_after_pause(PROJECT, quiet_s=0)  # annotators go on: the deaths of rounds count from 0 again
    pid = os.fork()
    if pid == 0:
        try:
            house.resident.name = name
            house.while_judging = lambda: os.kill(os.getpid(), signal.SIGKILL)
            house.learner.learn(LearnProject(project=PROJECT))
        finally:
            os._exit(0)
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL
    time_passes(house.redis, 31)


def test_an_offer_that_kills_its_learners_is_refused_in_the_end(house: LearningHouse, tmp_path: Path) -> None:
    ask(house, write_folder(tmp_path / "run"))
    for number in range(MAX_ATTEMPTS):
        assert ProjectOffers(house.redis).answered(PROJECT) is None
        die(house, f"learner {number}")
    subject, problem, remedy = answered(house).refusal
    assert (subject, problem.partition(":")[0]) == ("the adapter offered", "ended 5 learners that judged it")
    assert "memory" in remedy and "offer it again" in remedy
    assert house.judged == [], "it did not come near the one that answers"
    assert not house.redis.exists(ProjectKeys(PROJECT).offer, ProjectKeys(PROJECT).judging)
    assert not list(Path(house.settings.versions_url).rglob("offer-*"))
    ask(house, write_folder(tmp_path / "other"), "offer-ba9876543210")
    assert answered(house).promoted, "another offer begins anew"


def test_one_death_less_is_judged(house: LearningHouse, tmp_path: Path) -> None:
    asked = ask(house, write_folder(tmp_path / "run"))
    for number in range(MAX_ATTEMPTS - 1):
        ProjectOffers(house.redis).begin(PROJECT, asked, f"learner {number}")
    assert answered(house).promoted


def test_deaths_of_one_offer_are_not_those_of_the_next(redis: Redis) -> None:
    offers = ProjectOffers(redis)
    first, second = (Offer(f"offer-{digit * 12}", "m", "s", "t") for digit in "ab")
    assert [offers.begin(PROJECT, first, name) for name in ("one", "two", "two", "three")] == [0, 1, 1, 2]
    assert offers.begin(PROJECT, second, "three") == 0
    assert offers.begin(PROJECT, second, "four") == 1


def test_a_learner_that_was_interrupted_alive_is_not_counted(redis: Redis) -> None:
    offers, offer = ProjectOffers(redis), Offer(f"offer-{'a' * 12}", "m", "s", "t")
    offers.begin(PROJECT, offer, "one")
    offers.interrupt(PROJECT, "one")
    assert offers.begin(PROJECT, offer, "two") == 0
    offers.interrupt(PROJECT, "one")  # late: it has lost its lease
    assert offers.begin(PROJECT, offer, "three") == 1


@pytest.mark.parametrize("deaths", ["x", "nan", "-7", "1e999", ""])
def test_garbage_among_the_deaths_refuses_nothing(deaths: str, house: LearningHouse, tmp_path: Path) -> None:
    asked = ask(house, write_folder(tmp_path / "run"))
    key = ProjectKeys(PROJECT).judging
    house.redis.hset(key, mapping={"offer": asked.name, "learner": "dead", "deaths": deaths})
    assert answered(house).promoted
    house.redis.lpush(key, "a list")
    ask(house, tmp_path / "run", "offer-ba9876543210")
    assert answered(house).promoted


def test_a_learner_of_another_model_leaves_it_alone(house: LearningHouse, tmp_path: Path) -> None:
    asked = ask(house, write_folder(tmp_path / "run", model="another"))
    house.learner.learn(LearnProject(project=PROJECT))
    assert ProjectOffers(house.redis).waiting(PROJECT) == asked


def test_a_newer_offer_takes_the_place_of_one_that_waits(house: LearningHouse, tmp_path: Path) -> None:
    offers = ProjectOffers(house.redis)
    first = ask(house, write_folder(tmp_path / "run"))
    second = ask(house, write_folder(tmp_path / "run"), "offer-ba9876543210")
    assert house.learning.due() == [PROJECT]
    offers.answer(PROJECT, first, OfferAnswer(first.name, False, "", "", ("a", "b", "c")))
    assert offers.waiting(PROJECT) == second
    assert answered(house).promoted


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"name": "../x", "model": "m", "source": "s", "at": "t"}', '{"name": 3}']
)
def test_what_another_program_wrote_counts_as_no_offer(text: str, redis: Redis) -> None:
    redis.set(ProjectKeys(PROJECT).offer, text)
    redis.set(ProjectKeys(PROJECT).offered, text)
    assert ProjectOffers(redis).waiting(PROJECT) is None
    assert ProjectOffers(redis).answered(PROJECT) is None


def test_a_pointer_without_offers_is_written_as_before(house: LearningHouse) -> None:
    house.look()
    (path,) = Path(house.settings.versions_url).rglob("served.json")
    assert "contenders" not in json.loads(path.read_text())


# The command.


def offer(house: LearningHouse, redis_url: str, folder: Path, *more: str, project: int = PROJECT) -> Any:
    """The command, with a learner at work beside it."""
    over = threading.Event()

    def learn() -> None:
        while not over.is_set():
            if house.learning.due():
                house.learner.learn(LearnProject(project=PROJECT))
            time.sleep(0.05)

    learner = threading.Thread(target=learn)
    learner.start()
    try:
        env = {"REDIS_URL": redis_url, "MODEL": "builtin"}
        return CliRunner().invoke(zeromask, ["offer", str(project), str(folder), *more], prog_name="zeromask", env=env)
    finally:
        over.set()
        learner.join()


def test_the_command_waits_for_the_verdict(house: LearningHouse, redis_url: str, tmp_path: Path) -> None:
    done = offer(house, redis_url, write_folder(tmp_path / "run"))
    assert done.exit_code == 0, done.stderr
    assert done.stdout == f"project {PROJECT}: {house.served} is served from now on. promoted at strength 1: better.\n"
    house.promotes = False
    done = offer(house, redis_url, tmp_path / "run", "--json")
    told = json.loads(done.stdout)
    assert (told["promoted"], told["served"]) == (False, house.served)
    assert told["reason"] == "kept what is served: no better."


def test_the_command_ends_with_2_and_the_refusal(house: LearningHouse, redis_url: str, tmp_path: Path) -> None:
    house.mark = type(house.mark)(7, "x", 7)
    done = offer(house, redis_url, write_folder(tmp_path / "run"))
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith(f"zeromask offer: project {PROJECT}: has 7 corrected images")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        pytest.param(lambda folder: (folder / "adapter.json").unlink(), "holds no adapter", id="no adapter"),
        pytest.param(lambda folder: (folder / "adapter.json").write_text("[]"), "cannot be read", id="no record"),
        pytest.param(lambda folder: (folder / "adapter.json").write_text("{"), "cannot be read", id="no JSON"),
        pytest.param(lambda folder: next(folder.glob("*.safetensors")).unlink(), "tensors cannot be", id="missing"),
        pytest.param(lambda folder: next(folder.glob("*.safetensors")).write_bytes(b"x"), "damaged", id="damaged"),
        pytest.param(
            lambda folder: (folder / "adapter.json").write_text((folder / "adapter.json").read_text().replace(
                "adapter-", "../adapter-")), "not in the folder", id="outside",
        ),
    ],
)  # fmt: skip
def test_a_folder_that_is_no_whole_adapter_is_refused_before_anything_is_asked(
    spoil: Callable[[Path], object], message: str, house: LearningHouse, redis_url: str, tmp_path: Path
) -> None:
    spoil(write_folder(tmp_path / "run"))
    done = offer(house, redis_url, tmp_path / "run")
    assert done.exit_code == 2
    assert message in done.stderr
    assert house.redis.get(ProjectKeys(PROJECT).offer) is None


def test_another_model_an_unknown_project_and_no_learner_are_refused_before_anything_is_asked(
    house: LearningHouse, redis_url: str, tmp_path: Path
) -> None:
    done = offer(house, redis_url, write_folder(tmp_path / "other", model="ViT-B-16/openai"))
    assert "was trained on model ViT-B-16/openai" in done.stderr
    done = offer(house, redis_url, write_folder(tmp_path / "run"), project=99)
    assert "project 99: no worker has served it yet" in done.stderr
    house.resident.presence.remove("me")
    done = offer(house, redis_url, tmp_path / "run")
    assert "no learner runs" in done.stderr
    assert house.redis.get(ProjectKeys(PROJECT).offer) is None


def test_a_place_of_versions_that_is_not_seen_from_here_is_told(
    house: LearningHouse, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.look()
    house.resident.adapters.served(house.label_studio.project(PROJECT), from_disk=True)
    monkeypatch.setattr(VersionFolder, "pointer", lambda folder: Pointer())
    done = offer(house, redis_url, write_folder(tmp_path / "run"))
    assert "is not where the versions of project" in done.stderr


def test_a_full_disk_leaves_no_half_written_offer(
    house: LearningHouse, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    files = command.read_adapter_files(write_folder(tmp_path / "run"))
    write = Storage.write

    def full(storage: Storage, name: str, data: bytes) -> None:
        if name.endswith("adapter.json"):
            raise VersionsUnavailable(f"file {name}", "cannot be written (No space left on device)", "Make room.")
        write(storage, name, data)

    monkeypatch.setattr(Storage, "write", full)
    with pytest.raises(VersionsUnavailable, match="No space"):
        house.folder.add_offer("offer-0123456789ab", files.record, files.data)
    assert not list(Path(house.settings.versions_url).rglob("offer-*"))


def test_the_command_without_redis_says_so(tmp_path: Path) -> None:
    env = {"ZEROMASK_STATE_DIR": str(tmp_path / "state"), "REDIS_URL": ""}
    done = CliRunner().invoke(zeromask, ["offer", "1", str(write_folder(tmp_path / "run"))], env=env)
    assert done.exit_code == 2
    assert done.stderr.startswith("zeromask offer: ")
