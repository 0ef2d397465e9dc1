"""JSON text read value by value from a stream, so that what nobody asks for is passed over and never built.

Small values are decoded by the standard library's parser and let go; of what is larger than a piece, only quotes and
brackets are followed. So memory stays at some pieces whatever is sent, the time is linear, and no step holds up other
threads for more than a millisecond or two. (ijson was tried: as fast, but its yajl of 2015 brought the process down on
hostile bodies.) It must not know what is in a body.
"""

from __future__ import annotations

import codecs
import enum
import json
import re
import reprlib
from collections.abc import Iterator
from typing import Any, NoReturn, Protocol

from plugin_config.errors import JobError

REMEDY = "Send what Label Studio's ML backend client sends."
_PIECE = 64 * 1024  # characters that are looked at together at least
_READ = 128 * 1024  # bytes
_LONGEST_TEXT = 2 * 1024 * 1024  # characters of a text that is kept
_MOST_FIELDS = 1000  # of an object that is looked into
_MOST_DEPTH = 100  # a labeled task of Label Studio has about ten
_CUT = 2  # characters of a number, "e+" at most, that are passed over where it is cut off
_SPACE = re.compile(r"[ \t\n\r]*+")
_IN_TEXT = re.compile(r'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
_WHOLE = re.compile(rf'(?:[^"]++|"{_IN_TEXT.pattern}")*+', re.DOTALL)  # up to a text that does not end
_NO_BRACKETS = re.compile(rf'"{_IN_TEXT.pattern}"|[^"\[\]{{}}]++', re.DOTALL)
_TEXT_OR_BRACKET = re.compile(rf'"{_IN_TEXT.pattern}"|[\[\]{{}}]', re.DOTALL)
_SQUARE = str.maketrans("{}", "[]")
_LARGE = object()


class Readable(Protocol):
    """A binary stream."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; none at the end."""


class Skipped(enum.Enum):
    """What stands for a value that was passed over."""

    OBJECT = "an object"
    LIST = "a list"
    TEXT = "a long text"

    def __repr__(self) -> str:
        return str(self.value)


class JsonReader:
    """Walks through one JSON document in UTF-8. Every method reads on from where the last one stopped.

    Raises:
        JobError: by any method: the text is not JSON, or is nested too deeply.
    """

    def __init__(self, stream: Readable) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._text = ""
        self._at = 0
        self._ended = False

    def peek(self) -> str:
        """The next sign that is not white space; empty at the end."""
        while True:
            self._at = _end(_SPACE, self._text, self._at)
            if self._at < len(self._text) or self._ended:
                return self._text[self._at : self._at + 1]
            self._fill(1)

    def fields(self) -> Iterator[str]:
        """Stand before the value of each name of an object in turn; the caller reads that value, all of it."""
        if self.peek() != "{":
            got = reprlib.repr(self.value())
            raise JobError("request body", f"must be a JSON object, got {got}", REMEDY)
        for count, _ in enumerate(self._between("{", "}")):
            if count == _MOST_FIELDS:
                raise JobError("request body", f"has an object of more than {_MOST_FIELDS} fields", REMEDY)
            name = self.value()
            if not isinstance(name, str) and name is not Skipped.TEXT:
                raise not_json()
            self._need(":")
            yield name if isinstance(name, str) else ""  # nobody asks for a name that long

    def items(self) -> Iterator[None]:
        """Stand before each item of a list in turn; the caller reads that item, all of it."""
        yield from self._between("[", "]")

    def pass_rest(self) -> None:
        """From within a list, pass over all of its items that are still to come, and its end."""
        self._pass_brackets()

    def value(self) -> Any:
        """The next value: a text, a number, a bool or None as it is, an object or a list as what stands for it."""
        opening = self.peek()
        found = self._decode()
        if found is not _LARGE:
            return _stand_in(found)
        if opening == '"':
            return self._pass_text()
        if opening in ("{", "["):
            self._at += 1
            self._pass_brackets()
            return Skipped.OBJECT if opening == "{" else Skipped.LIST
        raise not_json()

    def text(self) -> Any:
        """The next value as `value` reads it, but a long text as it is.

        Raises:
            JobError: as above, or it is longer than two million characters.
        """
        self._fill_until_text_ends()
        return self.value()

    def field_of_object(self, name: str) -> Any:
        """The next value; of an object the named field (None when it has none), read as `value` does."""
        if self.peek() != "{":
            return self.value()
        found = self._decode()
        if found is not _LARGE:
            return _stand_in(found.get(name))
        found = None
        for field in self.fields():
            value = self.value()
            found = value if field == name else found
        return found

    def end(self) -> None:
        """Nothing may follow."""
        if self.peek():
            raise not_json()

    def _between(self, opening: str, closing: str) -> Iterator[None]:
        self._need(opening)
        if self.peek() != closing:
            yield
            while self.peek() == ",":
                self._at += 1
                yield
        self._need(closing)

    def _need(self, sign: str) -> None:
        if self.peek() != sign:
            raise not_json()
        self._at += 1

    def _fill(self, wanted: int) -> None:
        """Have `wanted` characters ahead, or all there are."""
        if self._ended or len(self._text) - self._at >= wanted:
            return
        parts = [self._text[self._at :]]
        ahead = len(parts[0])
        while ahead < wanted and not self._ended:
            data = self._stream.read(_READ)
            self._ended = not data
            try:
                parts.append(self._decoder.decode(data, final=self._ended))
            except UnicodeDecodeError as error:
                raise not_json() from error
            ahead += len(parts[-1])
        self._text, self._at = "".join(parts), 0

    def _decode(self) -> Any:
        """The next value, built; or that it is too large for that, and nothing is read."""
        for wanted in (0, _PIECE):
            self._fill(wanted)
            try:
                found, end = _DECODER.raw_decode(self._text, self._at)
            except RecursionError as error:
                raise _too_deep() from error
            except json.JSONDecodeError as error:
                if self._ended:
                    raise not_json() from error
            except ValueError as error:  # NaN, or a whole number of more digits than Python reads
                raise not_json() from error
            else:
                if end + _CUT < len(self._text) or self._ended:
                    self._at = end
                    return found
        return _LARGE

    def _fill_until_text_ends(self) -> None:
        wanted = _PIECE
        while self.peek() == '"':
            self._fill(wanted)
            end = _end(_IN_TEXT, self._text, self._at + 1)
            if self._ended or end < len(self._text) - 1 - _CUT:
                return
            if wanted > _LONGEST_TEXT:
                raise JobError("request body", f"has a text of more than {_LONGEST_TEXT} characters", REMEDY)
            wanted *= 2

    def _pass_text(self) -> Skipped:
        self._at += 1
        while True:
            self._at = _end(_IN_TEXT, self._text, self._at)
            if self._text[self._at : self._at + 1] == '"':
                self._at += 1
                return Skipped.TEXT
            self._more()

    def _pass_brackets(self) -> None:
        """Pass everything up to and with the bracket that closes what is open."""
        depth = 1
        while True:
            whole = _end(_WHOLE, self._text, self._at)
            closed, opened = _unmatched(self._text[self._at : whole])
            if closed >= depth:
                self._pass_to(depth)
                return
            depth += opened - closed
            if depth > _MOST_DEPTH:
                raise _too_deep()
            self._at = whole
            if whole < len(self._text):
                self._pass_text()
            else:
                self._more()

    def _pass_to(self, depth: int) -> None:
        """Pass the bracket that closes the outermost of `depth`; it is among what is here."""
        for match in _TEXT_OR_BRACKET.finditer(self._text, self._at):
            if match[0] in "[{":
                depth += 1
            elif match[0] in "]}":
                depth -= 1
                if depth == 0:
                    self._at = match.end()
                    return

    def _more(self) -> None:
        left = len(self._text) - self._at
        self._fill(left + 1)
        if len(self._text) - self._at <= left:
            raise not_json()


def not_json() -> JobError:
    """What is raised for text that is not JSON. It does not quote the text: that may hold a token."""
    return JobError("request body", "is not a JSON object", REMEDY)


def twice(name: str) -> JobError:
    """What is raised for an object that says two things under one name: readers disagree on which one counts."""
    return JobError("request body", f"has {name} twice", REMEDY)


def _too_deep() -> JobError:
    problem = f"must be a JSON object nested at most {_MOST_DEPTH} levels deep"
    return JobError("request body", problem, REMEDY)


def _unmatched(piece: str) -> tuple[int, int]:
    """How many brackets close what was opened before the piece, and how many it leaves open."""
    brackets = _NO_BRACKETS.sub("", piece).translate(_SQUARE)
    for _ in range(_MOST_DEPTH):
        before = len(brackets)
        brackets = brackets.replace("[[[[]]]]", "").replace("[]", "")
        if len(brackets) == before:
            return brackets.count("]"), brackets.count("[")
    raise _too_deep()


def _end(pattern: re.Pattern[str], text: str, start: int) -> int:
    """Where a pattern that matches anything, also nothing, stops matching."""
    match = pattern.match(text, start)
    return start if match is None else match.end()


def _stand_in(value: Any) -> Any:
    return Skipped.OBJECT if isinstance(value, dict) else Skipped.LIST if isinstance(value, list) else value


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse)
