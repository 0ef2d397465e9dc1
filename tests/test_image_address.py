"""The address of a task's image: variables of the Image's value, filled in as Label Studio's editor does."""

from __future__ import annotations

from typing import Any

import pytest

from plugin_config.errors import ImageUnavailable
from plugin_config.label_studio.client import Task
from plugin_config.vocabulary import parse_vocabulary
from tests.stand_ins import PROJECT, StandInContext, context_fixture
from worker.label_studio.image_address import address_in

__all__ = ["context_fixture"]  # pytest finds the fixture by its being here


def task(**data: Any) -> Task:
    return Task(5, data, frozenset(), 0)


PAGES = {"doc": {"pages": [{"url": "/a.png"}, {"url": "/b.png"}]}}


@pytest.mark.parametrize(
    ("value", "data", "address"),
    [
        pytest.param("$image", {"image": "/a.png"}, "/a.png", id="a key"),
        pytest.param("$a.b", {"a": {"b": "/a.png"}}, "/a.png", id="a path"),
        pytest.param("$doc.pages[1].url", PAGES, "/b.png", id="a path with an index"),
        pytest.param("$doc[pages][0][url]", PAGES, "/a.png", id="brackets alone"),
        pytest.param("$doc.pages.1.url", PAGES, "/b.png", id="an index as a key"),
        pytest.param("$pages[0]", {"pages": ["/a.png", "/b.png"]}, "/a.png", id="one of a list"),
        pytest.param("$a.b", {"a.b": "/a.png", "a": {"b": "/b.png"}}, "/a.png", id="a key with a dot comes first"),
        pytest.param("$a[0].b", {"a[0].b": "/a.png"}, "/a.png", id="a key with an index"),
        pytest.param("${a}", {"{a}": "/a.png"}, "/a.png", id="braces belong to the key"),
        pytest.param("$image", {"image": " /a.png\n"}, " /a.png\n", id="white space is for who fetches"),
        pytest.param("/data/upload/1/$file", {"file": "a.png"}, "/data/upload/1/a.png", id="text before"),
        pytest.param("https://h/$a/$b", {"a": "x", "b": "y.png"}, "https://h/x/y.png", id="text between"),
        pytest.param("$base/a.png", {"base": "https://h"}, "https://h/a.png", id="text after"),
        pytest.param("$a$b", {"a": "/x", "b": "y"}, "/xy", id="nothing between"),
        pytest.param("$base/$doc.pages[0].url", {"base": "http://h", **PAGES}, "http://h//a.png", id="path in a text"),
        pytest.param("/$n/$x/$y.png", {"n": 7, "x": True, "y": 2.0}, "/7/true/2.png", id="numbers in a text"),
        pytest.param("/$x.png", {"x": 1.5}, "/1.5.png", id="half a number in a text"),
        pytest.param("/$dir/a.png", {"dir": ""}, "//a.png", id="an empty part"),
        pytest.param("https://h/$a.png", {"a": "x"}, "https://h/x.png", id="an ending behind a text"),
        pytest.param("https://h/$a.tar.gz", {"a": "x"}, "https://h/x.tar.gz", id="two endings"),
        pytest.param("/$a.b.png", {"a": {"b": "x"}}, "/x.png", id="an ending behind a path"),
        pytest.param("/$a.png", {"a": {"png": "x"}}, "/x", id="the editor's reading comes first"),
        pytest.param("https://example.org/a.png", {"n": 1}, "https://example.org/a.png", id="no variable"),
        pytest.param("https://h/a?price=5$", {}, "https://h/a?price=5$", id="a dollar is no variable"),
        pytest.param("$image-url", {"image": "/a", "image-url": "/b"}, "/a-url", id="a dash ends a variable"),
        pytest.param("$image-url", {"image-url": "/b"}, "/b", id="but keys have dashes"),
        pytest.param("$the image", {"the image": "/b"}, "/b", id="and spaces"),
        pytest.param("$фото", {"фото": "/b"}, "/b", id="and letters beyond ASCII"),
    ],
)
def test_variables_stand_for_what_the_task_has(value: str, data: dict[str, Any], address: str) -> None:
    assert address_in(task(**data), value) == address


@pytest.mark.parametrize(
    ("value", "data", "key", "problem"),
    [
        pytest.param("$image", {"img": "/a.png"}, "image", "does not have (it has 'img')", id="missing"),
        pytest.param("$image", {}, "image", "does not have (it has nothing)", id="no data"),
        pytest.param("$image", {"image": None}, "image", "is null", id="null"),
        pytest.param("$image", {"image": 5}, "image", "is a number", id="a number"),
        pytest.param("$image", {"image": False}, "image", "is true or false", id="a yes or no"),
        pytest.param("$image", {"image": ""}, "image", "is empty", id="empty"),
        pytest.param("$image", {"image": " \n"}, "image", "is empty", id="blank"),
        pytest.param("$image", {"image": {"url": "/a"}}, "image", "is an object", id="an object"),
        pytest.param("$pages", {"pages": ["/a", "/b"]}, "pages", "read from an Image's valueList", id="a list"),
        pytest.param("$pages[2]", {"pages": ["/a", "/b"]}, "pages[2]", "does not have", id="beyond the list"),
        pytest.param("$pages[-1]", {"pages": ["/a"]}, "pages[", "is a list", id="from the end"),
        pytest.param("$pages[x]", {"pages": ["/a"]}, "pages[x]", "does not have", id="no index"),
        pytest.param("$image[0]", {"image": "/a.png"}, "image[0]", "does not have", id="a text is no list"),
        pytest.param("$image.png", {"image": "/a"}, "image.png", "does not have", id="a whole variable has no ending"),
        pytest.param("$a.b.c", {"a": {"b": None}}, "a.b.c", "does not have", id="beyond null"),
        pytest.param("/$dir/$file", {"dir": "x"}, "file", "does not have (it has 'dir')", id="one of two"),
        pytest.param("/$file", {"file": None}, "file", "is null", id="null in a text"),
        pytest.param("/$file", {"file": ["a"]}, "file", "is a list", id="a list in a text"),
        pytest.param("/$n", {"n": float("nan")}, "n", "is a number", id="no number in a text"),
        pytest.param("/$file.png", {"file": {"a": 1}}, "file.png", "is an object", id="an object with an ending"),
        pytest.param("{$image}", {"image": "/a"}, "image}", "does not have", id="the editor knows no {$image}"),
        pytest.param("${image}", {"image": "/a"}, "{image}", "does not have", id="nor ${image}"),
        pytest.param("$image-url", {"a": 1}, "image", "does not have", id="neither reading"),
        pytest.param("$фото", {"a": 1}, "фото", "does not have", id="no such key"),
    ],
)
def test_a_task_without_an_address_is_told_the_key_and_the_config(
    value: str, data: dict[str, Any], key: str, problem: str
) -> None:
    with pytest.raises(ImageUnavailable) as caught:
        address_in(task(**data), value)
    assert caught.value.subject == "image of task 5"
    assert f"value={value!r} asks for {key!r}, which" in caught.value.problem
    assert problem in caught.value.problem
    assert "task's data" in caught.value.remedy


def test_what_a_task_holds_is_told_in_bounds() -> None:
    with pytest.raises(ImageUnavailable) as caught:
        address_in(Task(5, {f"{'k' * 5000}{number}": "secret" for number in range(900)}, frozenset(), 0), "$image")
    assert len(str(caught.value)) < 900
    assert "secret" not in str(caught.value)


def test_a_long_variable_is_read_quickly() -> None:
    with pytest.raises(ImageUnavailable):
        address_in(task(a="x"), "/$" + "b." * 490)


@pytest.mark.parametrize("value", ["$image", "/x/$image", "$image.url"])
def test_one_odd_task_fails_alone(context: StandInContext, value: str) -> None:
    cat = '<BrushLabels name="b" toName="i"><Label value="cat"/></BrushLabels>'
    config = f'<View><Image name="i" value="{value}"/>{cat}</View>'
    context.label_studio.config = config
    context.label_studio.data[3] = None  # type: ignore[assignment]
    if value == "$image.url":
        context.label_studio.data = {key: text and {"url": text} for key, text in context.label_studio.data.items()}  # type: ignore[misc]
    context.ask(*range(1, 9))
    context.drain()
    context.drain()
    assert len(context.stored()) == 7
    (failed,) = context.pending.failures(PROJECT).items()
    assert failed[0].task == 3
    assert f"value={value!r}" in failed[1]
    assert parse_vocabulary(config).image_value == value
