"""What a labeling config leaves to each task: Repeaters, lists of images and labels from the task's data."""

from __future__ import annotations

from typing import Any

import pytest

from plugin_config.errors import ImageUnavailable, TaskDataError
from plugin_config.label_studio.client import Task
from plugin_config.vocabulary import Vocabulary, parse_vocabulary
from worker.label_studio import task_images
from worker.label_studio.task_images import TaskImage, images_of

PAIR = '<Label value="cat"/><Label value="dog"/>'
DYNAMIC = """<View><Image name="i" value="$image"/>
  <BrushLabels name="b" toName="i" value="$labels">{}</BrushLabels></View>"""
LISTED = f'<View><Image name="i" valueList="$pages"/><BrushLabels name="b" toName="i">{PAIR}</BrushLabels></View>'
REPEATED = f"""<View><Repeater on="$document" indexFlag="{{{{idx}}}}" mode="pagination">
  <Header value="Page {{{{idx}}}}"/><View><Image name="page_{{{{idx}}}}" value="$document[{{{{idx}}}}].page"/></View>
  <BrushLabels name="labels_{{{{idx}}}}" toName="page_{{{{idx}}}}">{PAIR}</BrushLabels></Repeater></View>"""
TWO = f"""<View><Image name="left" value="$a"/><View><Image name="right" value="$b"/></View>
  <BrushLabels name="b" toName="left">{PAIR}</BrushLabels>
  <RectangleLabels name="r" toName="left,right"><Label value="dog"/></RectangleLabels></View>"""


def task(**data: Any) -> Task:
    return Task(5, data, frozenset(), 0)


def images(config: str, **data: Any) -> tuple[TaskImage, ...]:
    return images_of(task(**data), parse_vocabulary(config)).images


def rows(vocabulary: Vocabulary) -> list[tuple[str, str, str]]:
    return [(label.control, label.to_name, label.key) for label in vocabulary.drawn]


def test_a_repeater_is_repeated_for_each_item() -> None:
    """As in the editor: `labels_0` on `page_0`, whose address is `$document[0].page`."""
    first, second = images(REPEATED, document=[{"page": "/a.png"}, {"page": "/b.png"}])
    assert [first.address(), second.address()] == ["/a.png", "/b.png"]
    assert rows(second.vocabulary) == [("labels_1", "page_1", "cat"), ("labels_1", "page_1", "dog")]
    assert [first.vocabulary.is_elsewhere(name) for name in ("page_0", "page_1", "page_7", "other")] == [
        False, True, True, False,
    ]  # fmt: skip
    assert (first.key, second.key) == ("5/page_0/0", "5/page_1/0")
    assert first.vocabulary.item_index is None


def test_flags_of_repeaters_are_replaced_as_javascript_does() -> None:
    """Once in each attribute; in tags right in the Repeater once more. Inner Repeaters see the outer number."""
    config = f"""<View><Repeater on="$books" indexFlag="#"><Repeater on="$books[#]" indexFlag="%">
      <Image name="p#%" value="$books[#][%]"/><BrushLabels name="b#%" toName="p#%">{PAIR}</BrushLabels>
      </Repeater></Repeater></View>"""
    found = images(config, books=[["/a", "/b"], ["/c"]])
    assert [(image.vocabulary.to_name, image.address()) for image in found] == [
        ("p00", "/a"), ("p01", "/b"), ("p10", "/c"),
    ]  # fmt: skip


def test_a_list_of_images_is_told_apart_by_the_index_of_its_items() -> None:
    first, second = images(LISTED, pages=["/a.png", "/b.png"])
    assert [first.address(), second.address()] == ["/a.png", "/b.png"]
    assert [first.vocabulary.item_index, second.vocabulary.item_index] == [0, 1]
    assert first.vocabulary.words == second.vocabulary.words == (("cat",), ("dog",))
    (only,) = images(LISTED, pages="/a.png")  # the editor shows a text as a list of one
    assert (only.address(), only.vocabulary.item_index, only.key) == ("/a.png", 0, "5")


@pytest.mark.parametrize(
    ("pages", "problem"),
    [
        pytest.param([], "the list is empty", id="empty"),
        pytest.param(None, "is null", id="null"),
        pytest.param({"a": 1}, "is an object", id="object"),
        pytest.param([7], "asks for 'pages[0]', which is a number", id="number in it"),
        pytest.param([{"url": "/a"}], "asks for 'pages[0]', which is an object", id="object in it"),
    ],
)
def test_a_malformed_list_is_told(pages: Any, problem: str) -> None:
    (image,) = images(LISTED, pages=pages)
    with pytest.raises(ImageUnavailable) as caught:
        image.address()
    assert caught.value.subject == "image of task 5"
    assert problem in caught.value.problem


def test_a_control_draws_on_every_image_of_its_to_name() -> None:
    left, right = images(TWO, a="/a.png", b="/b.png")
    assert rows(left.vocabulary) == [("b", "left", "cat"), ("b", "left", "dog")], "one thing is drawn by one control"
    assert rows(right.vocabulary) == [("r", "right", "dog")]
    assert right.address() == "/b.png"
    assert parse_vocabulary(TWO).words == (("cat",), ("dog",))
    assert left.vocabulary.is_elsewhere("right")


def test_so_many_images_are_read_and_no_more() -> None:
    found = images_of(task(pages=[f"/{number}.png" for number in range(60)]), parse_vocabulary(LISTED))
    assert len(found.images) == 50
    assert found.left_out == ("10 of 60 images are left out: the first 50 are read",)
    repeated = images_of(task(document=[{"page": "/a"}] * 60), parse_vocabulary(REPEATED))
    assert len(repeated.images) == 50
    assert "10 of 60 items of '$document' are left out" in repeated.left_out[0]


def test_labels_of_the_task_come_behind_those_of_the_config() -> None:
    given = ["cow", {"value": "Ox", "alias": "ox", "background": "red", "synonyms": "bull"}, {"value": "cat"}]
    (image,) = images(DYNAMIC.format('<Label value="cat" hint="furry"/>'), image="/a.png", labels=given)
    labels = [(label.key, label.texts) for label in image.vocabulary.labels]
    assert labels == [("cat", ("cat", "cat, furry")), ("cow", ("cow",)), ("ox", ("Ox", "bull"))]
    assert image.key == "5"


def test_labels_that_were_read_are_kept_up_to_a_number() -> None:
    kept = task_images._kept
    vocabulary = parse_vocabulary(DYNAMIC.format(""))
    for place in range(30):
        data = {"image": f"/{place}.png", "labels": [f"{place} {number}" for number in range(2_000)]}
        images_of(task(**data), vocabulary)
    assert 40_000 < kept.currsize <= kept.maxsize
    first = images_of(task(image="/a.png", labels=["cat"]), vocabulary).images[0]
    again, other = (images_of(task(image="/b.png", labels=[name]), vocabulary).images[0] for name in ("cat", "dog"))
    assert again.vocabulary is first.vocabulary and again.address() == "/b.png"
    assert other.vocabulary.words == (("dog",),)


def test_choices_may_come_from_the_task_too() -> None:
    config = '<View><Image name="i" value="$image"/><Choices name="q" toName="i" value="$kinds"/></View>'
    (image,) = images(config, image="/a.png", kinds=[{"value": "day"}, {"value": "night"}])
    assert [choice.key for choice in image.vocabulary.choices[0].choices] == ["day", "night"]


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        pytest.param({}, "BrushLabels 'b' has its labels from 'labels', which its data does not have (it has 'image')",
                     id="missing"),
        pytest.param({"labels": None}, "is null in its data and no list", id="null"),
        pytest.param({"labels": "cat"}, "is a text in its data and no list", id="a text"),
        pytest.param({"labels": {"value": "cat"}}, "is an object", id="an object"),
        pytest.param({"labels": [7]}, "item 1 of 'labels'", id="a number"),
        pytest.param({"labels": ["cat", {"background": "red"}]}, "item 2 of 'labels'", id="no value"),
        pytest.param({"labels": []}, "leaves nothing to predict", id="empty"),
        pytest.param({"labels": ["", " "]}, "leaves nothing to predict", id="blank"),
        pytest.param({"labels": ["x"] * 5001}, "has 5,001 labels; at most 5,000", id="too many"),
        pytest.param({"labels": ["x" * 1001]}, "1,001 characters", id="too long"),
        pytest.param({"labels": [{"value": "cat", "min_area": "big"}]}, "min_area='big'", id="a wrong option"),
    ],
)  # fmt: skip
def test_a_task_without_its_labels_is_told(data: dict[str, Any], problem: str) -> None:
    with pytest.raises(TaskDataError) as caught:
        images(DYNAMIC.format(""), image="/a.png", **data)
    assert caught.value.subject == "task 5"
    assert problem in caught.value.problem
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("document", [None, "x", [], {"a": 1}])
def test_a_task_without_its_turns_is_told(document: Any) -> None:
    with pytest.raises(TaskDataError, match=r"task 5: .*(no list|nothing to predict)"):
        images(REPEATED, document=document)


def test_a_config_cannot_be_repeated_without_end() -> None:
    many = "".join(f'<Label value="{number}"/>' for number in range(1000))
    with pytest.raises(TaskDataError, match="more than 12,000 tags"):
        images(REPEATED.replace(PAIR, many), document=[{"page": "/a"}] * 40)


def test_a_task_that_could_not_be_read_is_told() -> None:
    with pytest.raises(ImageUnavailable, match="too large"):
        images_of(Task(5, {}, frozenset(), 0, unreadable="its data is too large"), parse_vocabulary(LISTED))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param(DYNAMIC.format(""), DYNAMIC.format("").replace("$labels", "$names"), id="variable"),
        pytest.param(DYNAMIC.format(""), DYNAMIC.format(PAIR), id="labels beside"),
        pytest.param(DYNAMIC.format(""), DYNAMIC.format("").replace("value=\"$l", 'segments="semantic" value="$l'),
                     id="option of the control"),
        pytest.param(DYNAMIC.format(""), DYNAMIC.format("").replace("BrushLabels", "PolygonLabels"), id="output"),
        pytest.param(LISTED, LISTED.replace("valueList", "value"), id="a list or one"),
        pytest.param(LISTED, LISTED.replace("$pages", "$images"), id="another list"),
        pytest.param(TWO, TWO.replace("left,right", "left"), id="a second image"),
        pytest.param(REPEATED, REPEATED.replace("].page", "].image"), id="address in a turn"),
    ],
)  # fmt: skip
def test_the_version_follows_from_the_config_and_not_from_the_task(one: str, other: str) -> None:
    assert parse_vocabulary(one).hash != parse_vocabulary(other).hash
    assert parse_vocabulary(one).hash == parse_vocabulary(one).hash
