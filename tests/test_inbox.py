"""What waits before a stage: urgent first, alike together, bounded in bytes, nothing lost between threads."""

from __future__ import annotations

import threading

from tests.house import wait_until
from worker.service.inbox import Inbox, SharedInbox


def test_urgent_items_go_first_and_the_others_as_they_came() -> None:
    inbox: Inbox[str] = Inbox()
    for item, urgent in (("a", False), ("b", False), ("U", True), ("c", False), ("V", True)):
        inbox.put(item, urgent=urgent)
    assert [inbox.get(timeout_s=0)[0] for _ in range(5)] == ["U", "V", "a", "b", "c"]
    assert inbox.get(timeout_s=0.01) == []


def test_a_batch_is_of_one_kind_and_leaves_the_rest_in_order() -> None:
    inbox: Inbox[str] = Inbox()
    for item in ("a1", "b1", "a2", "b2", "a3", "a4"):
        inbox.put(item, urgent=False)
    assert inbox.get(3, timeout_s=0, alike=lambda item: item[0]) == ["a1", "a2", "a3"]
    assert inbox.get(9, timeout_s=0, alike=lambda item: item[0]) == ["b1", "b2"]
    assert inbox.get(9, timeout_s=0, alike=lambda item: item[0]) == ["a4"]


def test_who_would_fill_it_waits_but_not_what_is_urgent_and_one_always_fits() -> None:
    inbox: Inbox[str] = Inbox(most_bytes=100)
    inbox.put("huge", urgent=False, size=500)
    inbox.put("urgent", urgent=True, size=500)
    late = threading.Thread(target=lambda: inbox.put("late", urgent=False, size=50), daemon=True)
    late.start()
    late.join(timeout=0.1)
    assert late.is_alive()
    assert [inbox.get(timeout_s=0)[0] for _ in range(2)] == ["urgent", "huge"]
    late.join(timeout=30)
    assert inbox.get(timeout_s=1) == ["late"]


def test_what_one_owner_opens_waits_for_room_and_holds_up_nobody_else() -> None:
    """Else pictures that are opened, which may be as many as there are projects and tasks, fill the memory."""
    inbox: Inbox[str] = Inbox(most_bytes=100, whose=lambda item: item[0])
    inbox.put("a: bulk", urgent=False, size=500)
    inbox.put("a1", urgent=True, size=90)
    late = threading.Thread(target=lambda: inbox.put("a2", urgent=True, size=20), daemon=True)
    late.start()
    late.join(timeout=0.1)
    assert late.is_alive()
    assert not inbox.has_room("a", size=20, urgent=True)
    inbox.put("b1", urgent=True, size=90)
    assert [inbox.get(timeout_s=0)[0] for _ in range(2)] == ["a1", "b1"]
    late.join(timeout=30)
    assert inbox.get(timeout_s=0) == ["a2"]


def test_many_threads_lose_and_double_nothing() -> None:
    inbox: Inbox[int] = Inbox(most_bytes=50)
    taken: list[int] = []

    def take() -> None:
        while len(taken) < 2000:
            taken.extend(inbox.get(3, timeout_s=0.05))

    def put(start: int) -> None:
        for number in range(start, start + 500):
            inbox.put(number, urgent=number % 7 == 0, size=10)

    threads = [threading.Thread(target=take, daemon=True) for _ in range(4)]
    threads += [threading.Thread(target=put, args=(start,), daemon=True) for start in range(0, 2000, 500)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert sorted(taken) == list(range(2000))
    assert not any(thread.is_alive() for thread in threads)


def test_turns_are_by_what_an_owners_items_have_cost() -> None:
    inbox: Inbox[str] = Inbox(whose=lambda item: item[0])
    for item in ("a1", "a2", "a3", "b1", "b2", "b3"):
        inbox.put(item, urgent=False)
    taken = []
    for _ in range(6):
        (item,) = inbox.get(timeout_s=0)
        inbox.charge(item, 5.0 if item[0] == "a" else 1.0)
        taken.append(item)
    assert taken == ["a1", "b1", "b2", "b3", "a2", "a3"]


def test_what_is_urgent_is_taken_alone_while_the_next_stage_is_full() -> None:
    inbox: Inbox[str] = Inbox(most_bytes=10)
    inbox.put("bulk", urgent=False, size=10)
    assert inbox.full()
    assert inbox.get(timeout_s=0.01, only_urgent=lambda item: True) == []
    inbox.put("opened", urgent=True, size=10)
    inbox.put("held by nobody", urgent=False, size=10, waits=False)
    assert inbox.get(5, timeout_s=0, only_urgent=lambda item: True) == ["opened"]


def test_what_hangs_keeps_a_share_of_the_threads_busy() -> None:
    inbox: SharedInbox[tuple[int, str]] = SharedInbox(6, reserved=2, whose=lambda item: (item[0], ""))
    hold, done = threading.Event(), threading.Event()
    came: list[tuple[int, str]] = []

    def work() -> None:
        while not done.is_set():
            with inbox.taken(timeout_s=0.05) as item:
                if item is not None:
                    came.append(item)
                    if item[1] == "hangs":
                        hold.wait(90)
                    elif item[1] == "last":
                        done.set()

    for _ in range(20):
        inbox.put((1, "hangs"), urgent=False)
    threads = [threading.Thread(target=work, daemon=True) for _ in range(6)]
    for thread in threads:
        thread.start()
    inbox.put((2, "bulk"), urgent=False)
    inbox.put((1, "opened"), urgent=True)
    inbox.put((2, "last"), urgent=False)
    assert done.wait(60), "twenty hang"
    wait_until(lambda: (1, "opened") in came and came.count((1, "hangs")) >= 2)  # taken before, noted a moment later
    assert came.count((1, "hangs")) == 2
    hold.set()
    for thread in threads:
        thread.join(timeout=30)
