"""Places and turns: nobody has all of them, and who is dear comes seldom."""

from __future__ import annotations

from worker.label_studio.shares import Places, Turns


def taken(places: Places, owner: int, part: int = 0, *, urgent: bool = False) -> int:
    """How many more the owner gets."""
    count = 0
    while places.free(owner, part, urgent=urgent):
        places.take(owner, part, urgent=urgent)
        count += 1
    return count


def test_whoever_holds_his_for_ever_leaves_some() -> None:
    places = Places(24, reserved=4)
    assert [taken(places, owner) for owner in range(3)] == [8, 5, 3]
    assert taken(places, 7, urgent=True) == 3
    assert taken(places, 8, urgent=True) > 0


def test_a_host_that_hangs_leaves_its_project_some() -> None:
    places = Places(24, reserved=4)
    assert taken(places, 1, part=1) == 8
    assert taken(places, 1, part=2) == 2


def test_what_is_given_back_is_free_again() -> None:
    places = Places(4, reserved=1)
    for _ in range(5):
        assert taken(places, 1) == 2
        for _ in range(2):
            places.give_back(1, 0, urgent=False)


def test_turns_go_by_cost() -> None:
    turns = Turns()
    for owner in ("dear", "cheap"):
        turns.came(owner)
    went = []
    for _ in range(22):
        owner = min(("dear", "cheap"), key=turns.place)
        turns.went(owner)
        turns.charge(owner, 10.0 if owner == "dear" else 1.0)
        went.append(owner)
    assert went.count("cheap") == 20
    turns.came("new")
    assert turns.place("new") >= min(turns.place("dear"), turns.place("cheap")) - 1, "no credit for having been away"
