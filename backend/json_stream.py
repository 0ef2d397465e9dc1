"""Reads JSON value by value from a stream; values that are not needed are skipped and never built.

Small values are decoded by the standard library's parser and dropped; of values larger than a chunk, only quotes and
brackets are followed. So memory stays at a few chunks whatever is sent, the time is linear, and no step holds up other
threads for more than a millisecond or two. (ijson was tried: as fast, but its yajl of 2015 crashed the process on
hostile bodies.)
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
_CHUNK = 64 * 1024  # characters; at least so many are decoded together
_READ = 128 * 1024  # bytes read at once
_MAX_TEXT = 2 * 1024 * 1024  # characters of a string that is returned
_MAX_FIELDS = 1000  # of an object that is iterated over
_MAX_DEPTH = 100  # a labeled task of Label Studio has about ten levels
_CUT = 2  # characters, "e+", that may follow a number at the end of a chunk and still belong to it
_SPACE = re.compile(r"[ \t\n\r]*+")
_IN_TEXT = re.compile(r'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
_WHOLE = re.compile(rf'(?:[^"]++|"{_IN_TEXT.pattern}")*+', re.DOTALL)  # up to a string that does not end
_NO_BRACKETS = re.compile(rf'"{_IN_TEXT.pattern}"|[^"\[\]{{}}]++', re.DOTALL)
_TEXT_OR_BRACKET = re.compile(rf'"{_IN_TEXT.pattern}"|[\[\]{{}}]', re.DOTALL)
_SQUARE = str.maketrans("{}", "[]")
_LARGE = object()


class Readable(Protocol):
    """A binary stream."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; none at the end."""


class Skipped(enum.Enum):
    """Stands for a value that was skipped."""

    OBJECT = "an object"
    LIST = "a list"
    TEXT = "a long text"

    def __repr__(self) -> str:
        return str(self.value)


class JsonReader:
    """Reads one JSON document in UTF-8. Every method continues where the last one stopped.

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
        """The next character that is not white space, without reading it; empty at the end."""
        while True:
            self._at = _end(_SPACE, self._text, self._at)
            if self._at < len(self._text) or self._ended:
                return self._text[self._at : self._at + 1]
            self._fill(1)

    def fields(self) -> Iterator[str]:
        """Iterate over the names of an object; the caller reads the whole value of each."""
        if self.peek() != "{":
            got = reprlib.repr(self.value())
            raise JobError("request body", f"must be a JSON object, got {got}", REMEDY)
        for count, _ in enumerate(self._between("{", "}")):
            if count == _MAX_FIELDS:
                raise JobError("request body", f"has an object of more than {_MAX_FIELDS} fields", REMEDY)
            name = self.value()
            if not isinstance(name, str) and name is not Skipped.TEXT:
                raise _not_json()
            self._need(":")
            yield name if isinstance(name, str) else ""  # no field that is needed has a name that long

    def items(self) -> Iterator[None]:
        """Iterate over a list; the caller reads the whole of each item."""
        yield from self._between("[", "]")

    def skip_rest(self) -> None:
        """From within a list, skip its remaining items and its end."""
        self._skip_brackets()

    def value(self) -> Any:
        """The next value: a string, number, bool or None itself; `Skipped` for an object, a list or a long string."""
        opening = self.peek()
        found = self._decode()
        if found is not _LARGE:
            return _stand_in(found)
        if opening == '"':
            return self._skip_text()
        if opening in ("{", "["):
            self._at += 1
            self._skip_brackets()
            return Skipped.OBJECT if opening == "{" else Skipped.LIST
        raise _not_json()

    def whole(self, most: int) -> tuple[Any, int]:
        """The next value itself, an object or a list too, where its text has at most `most` characters; else as `value`
        reads it. Returns it and the number of characters, 0 for one that was skipped.
        """
        wanted, found = 0, _LARGE
        while found is _LARGE:
            self._fill(wanted)
            self.peek()
            start, found = self._at, self._decode_buffered()
            size = self._at - start
            if found is not _LARGE:
                return (found, size) if size <= most else (_stand_in(found), 0)
            if wanted > most + _CUT:
                return self.value(), 0
            wanted = min(most + _CUT + 1, max(2 * wanted, _CHUNK))
        return found, 0

    def text(self) -> Any:
        """The next value as `value` reads it, but a long string itself.

        Raises:
            JobError: as for the class, or it is longer than two million characters.
        """
        self._fill_until_text_ends()
        return self.value()

    def field_of_object(self, name: str) -> Any:
        """The next value; of an object the named field (None when it has none), as `value` reads it."""
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
        """Check that nothing follows.

        Raises:
            JobError: something does.
        """
        if self.peek():
            raise _not_json()

    def _between(self, opening: str, closing: str) -> Iterator[None]:
        self._need(opening)
        if self.peek() != closing:
            yield
            while self.peek() == ",":
                self._at += 1
                yield
        self._need(closing)

    def _need(self, char: str) -> None:
        if self.peek() != char:
            raise _not_json()
        self._at += 1

    def _fill(self, wanted: int) -> None:
        """Buffer `wanted` characters, or all that are left."""
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
                raise _not_json() from error
            ahead += len(parts[-1])
        self._text, self._at = "".join(parts), 0

    def _decode(self) -> Any:
        """The next value, decoded; `_LARGE`, and nothing read, when it is too large for that."""
        for wanted in (0, _CHUNK):
            self._fill(wanted)
            found = self._decode_buffered()
            if found is not _LARGE:
                return found
        return _LARGE

    def _decode_buffered(self) -> Any:
        """The next value, decoded; `_LARGE`, and nothing read, when the buffer does not hold all of it."""
        try:
            found, end = _DECODER.raw_decode(self._text, self._at)
        except RecursionError as error:
            raise _too_deep() from error
        except json.JSONDecodeError as error:
            if self._ended:
                raise _not_json() from error
        except ValueError as error:  # NaN, or a whole number of more digits than Python reads
            raise _not_json() from error
        else:
            if end + _CUT < len(self._text) or self._ended:
                self._at = end
                return found
        return _LARGE

    def _fill_until_text_ends(self) -> None:
        wanted = _CHUNK
        while self.peek() == '"':
            self._fill(wanted)
            end = _end(_IN_TEXT, self._text, self._at + 1)
            if self._ended or end < len(self._text) - 1 - _CUT:
                return
            if wanted > _MAX_TEXT:
                raise JobError("request body", f"has a text of more than {_MAX_TEXT} characters", REMEDY)
            wanted *= 2

    def _skip_text(self) -> Skipped:
        self._at += 1
        while True:
            self._at = _end(_IN_TEXT, self._text, self._at)
            if self._text[self._at : self._at + 1] == '"':
                self._at += 1
                return Skipped.TEXT
            self._fill_more()

    def _skip_brackets(self) -> None:
        """Skip everything up to the bracket that closes the open object or list, and the bracket."""
        depth = 1
        while True:
            whole = _end(_WHOLE, self._text, self._at)
            closed, opened = _unmatched(self._text[self._at : whole])
            if closed >= depth:
                self._skip_to(depth)
                return
            depth += opened - closed
            if depth > _MAX_DEPTH:
                raise _too_deep()
            self._at = whole
            if whole < len(self._text):
                self._skip_text()
            else:
                self._fill_more()

    def _skip_to(self, depth: int) -> None:
        """Skip to after the bracket that closes the outermost of `depth` levels; it is in the buffer."""
        for match in _TEXT_OR_BRACKET.finditer(self._text, self._at):
            if match[0] in "[{":
                depth += 1
            elif match[0] in "]}":
                depth -= 1
                if depth == 0:
                    self._at = match.end()
                    return

    def _fill_more(self) -> None:
        left = len(self._text) - self._at
        self._fill(left + 1)
        if len(self._text) - self._at <= left:
            raise _not_json()


def _not_json() -> JobError:
    """The error for text that is not JSON. It does not quote the text, which may hold a token."""
    return JobError("request body", "is not a JSON object", REMEDY)


def duplicate(name: str) -> JobError:
    """The error for an object that has a name twice: JSON parsers disagree on which value counts."""
    return JobError("request body", f"has {name} twice", REMEDY)


def _too_deep() -> JobError:
    problem = f"must be a JSON object nested at most {_MAX_DEPTH} levels deep"
    return JobError("request body", problem, REMEDY)


def _unmatched(piece: str) -> tuple[int, int]:
    """How many brackets close levels opened before the piece, and how many levels it leaves open."""
    brackets = _NO_BRACKETS.sub("", piece).translate(_SQUARE)
    for _ in range(_MAX_DEPTH):
        before = len(brackets)
        brackets = brackets.replace("[[[[]]]]", "").replace("[]", "")
        if len(brackets) == before:
            return brackets.count("]"), brackets.count("[")
    raise _too_deep()


def _end(pattern: re.Pattern[str], text: str, start: int) -> int:
    """Where the match of a pattern that also matches the empty string ends."""
    match = pattern.match(text, start)
    return start if match is None else match.end()


def _stand_in(value: Any) -> Any:
    return Skipped.OBJECT if isinstance(value, dict) else Skipped.LIST if isinstance(value, list) else value


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse)
