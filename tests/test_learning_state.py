"""When corrections are checked: after a pause, at once for a person, one at a time, requests meanwhile, deaths."""

from __future__ import annotations

import pytest
from redis import Redis

from plugin_config.queue.jobs import LearnProject, enqueue_learning, learn_queue
from plugin_config.queue.learning import LearningLease, Progress, ProjectLearning
from plugin_config.queue.offers import Offer, OfferAnswer, ProjectOffers
from plugin_config.queue.pending import PendingTasks
from tests.queue_states import PROJECT, clock_was_set, time_passes

DONE = Progress("idle", "nothing is new", "now")
OFFER = Offer("offer-0123456789ab", "builtin", "a run", "now")


@pytest.fixture
def learning(redis: Redis) -> ProjectLearning:
    return ProjectLearning(redis, lease_s=4.0)


def begin(learning: ProjectLearning, owner: str = "me") -> LearningLease:
    lease = learning.begin(PROJECT, owner)
    assert lease is not None
    return lease


def test_a_check_waits_for_a_pause(learning: ProjectLearning, redis: Redis) -> None:
    learning.request_after_pause(PROJECT, quiet_s=10)
    time_passes(redis, 6)
    learning.request_after_pause(PROJECT, quiet_s=10)
    time_passes(redis, 6)
    assert learning.due() == []
    time_passes(redis, 5)
    assert learning.due() == [PROJECT]
    lease = begin(learning)
    assert lease.quiet_s == pytest.approx(11, abs=4)
    assert not lease.immediate


def test_annotators_who_never_pause_are_not_waited_for_without_end(learning: ProjectLearning, redis: Redis) -> None:
    for _ in range(21):
        learning.request_after_pause(PROJECT, quiet_s=10)
        time_passes(redis, 5)
    assert learning.due() == [PROJECT]


def test_annotations_that_come_while_the_check_is_queued_put_it_off(
    learning: ProjectLearning, redis: Redis
) -> None:
    learning.request_after_pause(PROJECT, quiet_s=10)
    time_passes(redis, 11)
    assert learning.due() == [PROJECT]
    learning.request_after_pause(PROJECT, quiet_s=10)
    assert learning.begin(PROJECT, "me") is None
    time_passes(redis, 11)
    begin(learning)


def test_the_button_does_not_wait(learning: ProjectLearning) -> None:
    learning.request_after_pause(PROJECT, quiet_s=1000)
    assert learning.due() == []
    learning.request_now(PROJECT)
    assert learning.due() == [PROJECT]
    assert begin(learning).immediate


def test_annotations_that_come_after_the_button_do_not_put_it_off(learning: ProjectLearning, redis: Redis) -> None:
    learning.request_now(PROJECT)
    time_passes(redis, 1)
    learning.request_after_pause(PROJECT, quiet_s=1000)
    assert learning.due() == [PROJECT]
    lease = begin(learning)
    assert lease.immediate
    assert learning.end(PROJECT, "me", lease, DONE, mark="m")
    assert learning.due() == []
    learning.request_after_pause(PROJECT, quiet_s=1000)
    assert learning.due() == [], "nobody waits any more"


def test_an_offer_is_not_put_off(learning: ProjectLearning, redis: Redis) -> None:
    ProjectOffers(redis).ask(PROJECT, OFFER)
    time_passes(redis, 1)
    learning.request_after_pause(PROJECT, quiet_s=1000)
    assert learning.due() == [PROJECT]


def test_annotations_that_come_while_an_offer_is_judged_are_looked_at_after_it(
    learning: ProjectLearning, redis: Redis
) -> None:
    offers = ProjectOffers(redis)
    offers.ask(PROJECT, OFFER)
    lease = begin(learning)
    time_passes(redis, 1)
    learning.request_after_pause(PROJECT, quiet_s=1)
    offers.answer(PROJECT, OFFER, OfferAnswer(OFFER.name, False, "no better", "zeroshot"))
    assert learning.end(PROJECT, "me", lease, DONE, mark="m")
    time_passes(redis, 2)
    assert learning.due() == [PROJECT]


@pytest.mark.parametrize("again_s", [None, 1000.0], ids=["ended", "to be repeated"])
def test_an_offer_that_is_asked_during_a_check_is_for_the_next_one(
    again_s: float | None, learning: ProjectLearning, redis: Redis
) -> None:
    learning.request_now(PROJECT)
    lease = begin(learning)
    time_passes(redis, 1)
    ProjectOffers(redis).ask(PROJECT, OFFER)
    assert learning.end(PROJECT, "me", lease, DONE, mark="m", again_s=again_s)
    assert learning.due() == [PROJECT]


def test_the_round_does_not_hurry_what_waits_for_a_pause(learning: ProjectLearning) -> None:
    learning.request_after_pause(PROJECT, quiet_s=1000)
    learning.request(PROJECT)
    assert learning.due() == []
    learning.request(8)
    assert learning.due() == [8]


def test_one_learner_checks_at_a_time(learning: ProjectLearning) -> None:
    learning.request_now(PROJECT)
    begin(learning, "one")
    assert learning.begin(PROJECT, "two") is None
    assert learning.due() == []
    assert learning.renew(PROJECT, "one")
    assert not learning.renew(PROJECT, "two")


def test_a_dead_one_is_taken_over_and_what_it_says_then_counts_no_more(
    learning: ProjectLearning, redis: Redis
) -> None:
    learning.request_now(PROJECT)
    first = begin(learning, "dead")
    time_passes(redis, 5)
    assert learning.due() == [PROJECT]
    second = begin(learning, "alive")
    assert (second.deaths, second.immediate) == (1, True)
    assert not learning.renew(PROJECT, "dead")
    assert not learning.end(PROJECT, "dead", first, DONE, mark="m")
    assert learning.end(PROJECT, "alive", second, DONE, mark="m")
    assert learning.due() == []
    assert learning.progress(PROJECT) == DONE


def test_a_clock_that_is_set_costs_no_lease(redis: Redis) -> None:
    learning = ProjectLearning(redis, lease_s=11)
    learning.request_now(PROJECT)
    begin(learning)
    clock_was_set(redis, 86_400)
    assert learning.begin(PROJECT, "two") is None
    clock_was_set(redis, -86_400)
    assert learning.renew(PROJECT, "me")


def check_with_a_webhook_meanwhile(learning: ProjectLearning, redis: Redis, *, again_s: float | None = None) -> None:
    """A check that a person requested, a webhook during it, and the pause after that."""
    learning.request_now(PROJECT)
    lease = begin(learning)
    time_passes(redis, 1)
    learning.request_after_pause(PROJECT, quiet_s=1)
    assert learning.end(PROJECT, "me", lease, DONE, mark="m", again_s=again_s)
    time_passes(redis, 2)


def test_a_request_during_a_check_stays(learning: ProjectLearning, redis: Redis) -> None:
    check_with_a_webhook_meanwhile(learning, redis)
    assert learning.due() == [PROJECT]


def test_a_persons_request_is_over_with_its_check_whatever_came_meanwhile(
    learning: ProjectLearning, redis: Redis
) -> None:
    check_with_a_webhook_meanwhile(learning, redis)
    assert not begin(learning).immediate


def test_a_persons_request_during_a_check_is_for_the_next_one(learning: ProjectLearning, redis: Redis) -> None:
    learning.request_after_pause(PROJECT, quiet_s=0)
    lease = begin(learning)
    assert not lease.immediate
    time_passes(redis, 1)
    learning.request_now(PROJECT)
    assert learning.end(PROJECT, "me", lease, DONE, mark="m")
    lease = begin(learning)
    assert lease.immediate
    assert learning.end(PROJECT, "me", lease, DONE, mark="m")
    assert learning.due() == []


def test_the_person_still_waits_where_a_webhook_came_while_a_check_could_not_be_ended(
    learning: ProjectLearning, redis: Redis
) -> None:
    check_with_a_webhook_meanwhile(learning, redis, again_s=30)
    assert begin(learning).immediate


def test_a_pause_is_waited_for_after_a_long_check_too(redis: Redis) -> None:
    learning = ProjectLearning(redis, lease_s=1000)
    learning.request_after_pause(PROJECT, quiet_s=10)
    time_passes(redis, 11)
    lease = begin(learning)
    time_passes(redis, 300)
    learning.request_after_pause(PROJECT, quiet_s=10)
    assert learning.end(PROJECT, "me", lease, DONE, mark="m")
    assert learning.due() == []
    time_passes(redis, 11)
    assert learning.due() == [PROJECT]


def test_annotators_who_go_on_through_a_long_check_are_not_waited_for_without_end_after_it(redis: Redis) -> None:
    learning = ProjectLearning(redis, lease_s=1000)
    learning.request_after_pause(PROJECT, quiet_s=10)
    time_passes(redis, 11)
    lease = begin(learning)
    for _ in range(22):
        time_passes(redis, 5)
        learning.request_after_pause(PROJECT, quiet_s=10)
    assert learning.end(PROJECT, "me", lease, DONE, mark="m")
    assert learning.due() == [PROJECT]


def test_a_check_that_could_not_be_ended_now_comes_again(learning: ProjectLearning, redis: Redis) -> None:
    learning.request_now(PROJECT)
    away = Progress("waiting", "Label Studio is away", "now")
    assert learning.end(PROJECT, "me", begin(learning), away, mark="m", again_s=30)
    assert learning.due() == []
    time_passes(redis, 31)
    lease = begin(learning)
    assert lease.immediate, "the person still waits"
    assert lease.mark == "m"
    assert lease.mark_s == pytest.approx(31, abs=20)


def test_a_check_that_kills_is_repeated_ever_more_rarely_until_something_changes(
    learning: ProjectLearning, redis: Redis
) -> None:
    learning.request_now(PROJECT)
    for number in range(3):
        begin(learning, f"dead {number}")
        time_passes(redis, 5)
    assert learning.begin(PROJECT, "next") is None
    assert learning.due() == []
    time_passes(redis, 11)
    assert begin(learning, "dead 3").deaths == 3
    learning.request_after_pause(PROJECT, quiet_s=0)
    time_passes(redis, 5)
    assert begin(learning, "next").deaths == 1


def test_nothing_is_checked_without_a_request(learning: ProjectLearning, pending: PendingTasks) -> None:
    assert learning.begin(PROJECT, "me") is None
    learning.request_after_pause(PROJECT, quiet_s=0)
    pending.forget_project(PROJECT)
    assert learning.due() == []
    assert learning.begin(PROJECT, "me") is None


def test_a_check_is_queued_once(redis: Redis) -> None:
    queue, job = learn_queue(redis), LearnProject(project=PROJECT)
    assert [enqueue_learning(queue, job) for _ in range(3)] == [True, False, False]
    assert [LearnProject.from_json(waiting.args[0]) for waiting in queue.jobs] == [job]
