"""Nobody can hold all slots, and owners with costly items get fewer turns."""

from __future__ import annotations

from worker.label_studio.fair_share import FairOrder, FairSlots


def taken(slots: FairSlots, owner: int, part: int = 0, *, urgent: bool = False) -> int:
    """How many more the owner gets."""
    count = 0
    while slots.available(owner, part, urgent=urgent):
        slots.acquire(owner, part, urgent=urgent)
        count += 1
    return count


def test_an_owner_that_keeps_its_slots_for_ever_leaves_some() -> None:
    slots = FairSlots(24, reserved=4)
    assert [taken(slots, owner) for owner in range(3)] == [8, 5, 3]
    assert taken(slots, 7, urgent=True) == 3
    assert taken(slots, 8, urgent=True) > 0


def test_a_host_that_hangs_leaves_its_project_some() -> None:
    slots = FairSlots(24, reserved=4)
    assert taken(slots, 1, part=1) == 8
    assert taken(slots, 1, part=2) == 2


def test_what_is_given_back_is_free_again() -> None:
    slots = FairSlots(4, reserved=1)
    for _ in range(5):
        assert taken(slots, 1) == 2
        for _ in range(2):
            slots.release(1, 0, urgent=False)


def test_the_order_is_by_cost() -> None:
    order = FairOrder()
    for owner in ("dear", "cheap"):
        order.enter(owner)
    taken_by = []
    for _ in range(22):
        owner = min(("dear", "cheap"), key=order.position)
        order.take(owner)
        order.charge(owner, 10.0 if owner == "dear" else 1.0)
        taken_by.append(owner)
    assert taken_by.count("cheap") == 20
    order.enter("new")
    others = min(order.position("dear"), order.position("cheap"))
    assert order.position("new") >= others - 1, "no credit for having been away"
