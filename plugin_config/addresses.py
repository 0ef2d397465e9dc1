"""Parsing of addresses from untrusted text, their origins, and the routes by which Label Studio serves files.

Only `httpx.URL` parses addresses here, because httpx also sends the requests: a token leaks where two parsers disagree
about where a host ends. What browsers drop or turn before they parse is done to the text first (`as_browsers_read`), so
that httpx sees neither.
"""

from __future__ import annotations

import re
import unicodedata
from urllib.parse import parse_qsl, unquote

import httpx

_SCHEME_PORTS = {"http": 80, "https": 443}
_UNPRINTED = frozenset({"Cc", "Cs", "Zl", "Zp"})  # controls (C0, DEL, C1), surrogates, line and paragraph separators
_HOST = re.compile(rb"[a-z0-9._-]+|[0-9a-fA-F:.]+")  # a name or an IPv4 address, or an IPv6 one without a zone
_USER_NAME = re.compile(r"[^/?#]*//[^/?#]*@")
_SCHEME = re.compile(r"([a-z][a-z0-9+._-]*):", re.IGNORECASE | re.ASCII)
_AROUND = "".join(map(chr, range(0x21)))  # C0 controls and the space; not NBSP and other white space of Unicode
_TAIL = re.compile(r"[?#]")
_LONGEST_HOST = 255  # RFC 1035
_MOST_SPELLINGS = 4
_MOST_SHOWN = 100
# The routes of Label Studio that name a file, wherever in a path they begin.
_ROUTE = re.compile(
    r"/(?:(?P<upload>data/upload/[^/])"
    r"|(?:(?P<local>data/local-files)|storage-data/uploaded|(?:tasks|projects)/[0-9]+/(?:presign|resolve))/?$)"
)

MOST_CHARACTERS = 65_536
"""Length of the longest address that is parsed; httpx accepts none longer."""

ALLOWED_PATHS = (
    "Allowed are files under /data/ (of uploads, those of the task's own project), /static/ and"
    " /storage-data/uploaded/, and presign and resolve of the task or its project."
)
"""What `is_file_of_task` allows, as a sentence for people."""


def trimmed(text: str) -> str:
    """Drop what browsers drop from an address: C0 controls and spaces around it, tabs and line ends anywhere.

    https://url.spec.whatwg.org/#concept-basic-url-parser, steps 1 to 3.
    """
    return text.strip(_AROUND).replace("\t", "").replace("\n", "").replace("\r", "")


def as_browsers_read(text: str) -> str:
    """Rewrite an http(s) or relative address as browsers read it: trimmed, and with slashes for backslashes before its
    query. In the query, where they stand for themselves, backslashes are escaped.
    """
    text = trimmed(text)
    tail = _TAIL.search(text)
    end = tail.start() if tail else len(text)
    return text[:end].replace("\\", "/") + text[end:].replace("\\", "%5C")


def scheme_of(text: str) -> str:
    """The scheme that a trimmed address begins with, in lower case and without its colon; "" = none, it is relative."""
    found = _SCHEME.match(text)
    return found[1].lower() if found else ""


def shown(text: str) -> str:
    """Quote an address in a message: bounded, and without a query, which may hold a signature, or any data."""
    text = trimmed(text[:4096])
    if scheme_of(text) == "data":
        return "'data:...'"
    if text.lower().startswith(("http", "/")):
        text = _TAIL.split(text, maxsplit=1)[0]
    text = re.sub(r"//[^/?#]*@", "//...@", text)
    return repr(text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}...")


def label_studio_prefix(url: httpx.URL) -> str | None:
    """The path before a route of Label Studio that names a file; None where the address has no such route."""
    path, asked, query = url.raw_path.decode("ascii").partition("?")
    found = _ROUTE.search(path)
    if found is None or not (found["upload"] or asked):
        return None
    if found["local"] and not any(part.startswith("d=") for part in query.split("&")):
        return None
    return path[: found.start()]


def read_address(text: str, base: httpx.URL | None = None) -> httpx.URL:
    """Parse an http or https address; spaces around it are ignored.

    Args:
        text: from a task, a setting or a `Location` header.
        base: what a relative `text` is relative to; without it only absolute addresses are accepted.

    Raises:
        ValueError: too long, a character that parsers are known to drop or replace (controls, backslash), a user name
            in it, an invalid host or port, another scheme, or a relative address without a base.
    """
    if len(text) > MOST_CHARACTERS:
        raise ValueError(f"it is longer than {MOST_CHARACTERS:,} characters")
    text = text.strip(" ")
    strange = next((char for char in text if char == "\\" or unicodedata.category(char) in _UNPRINTED), "")
    if strange:
        raise ValueError(f"it holds the character {strange!r}")
    if _USER_NAME.match(text):
        raise ValueError("it holds a user name")
    try:
        url = httpx.URL(text)
        if base is not None:
            url = httpx.URL(str(base.join(url)))  # parsed again: what is checked must be what is sent
    except httpx.InvalidURL as error:
        raise ValueError(str(error)[:_MOST_SHOWN]) from error
    if url.scheme not in _SCHEME_PORTS:
        raise ValueError("it does not begin with http:// or https://")
    if url.userinfo:
        raise ValueError("it holds a user name")
    if not _HOST.fullmatch(url.raw_host) or len(url.raw_host) > _LONGEST_HOST:
        raise ValueError("its host is not valid" if url.raw_host else "it names no host")
    if url.port is not None and not 0 < url.port < 65536:
        raise ValueError("its port is not valid")
    return url


def origin_of(url: httpx.URL) -> tuple[str, bytes, int]:
    """Scheme, host as it is sent, and port (the default of the scheme where none is given) of an address."""
    return url.scheme, url.raw_host.lower(), url.port if url.port is not None else _SCHEME_PORTS.get(url.scheme, 0)


def is_file_of_task(url: httpx.URL, *, below: str, task: int, project: int) -> bool:
    """Whether an address of Label Studio serves a file, and where its path names a project or task, one of this task.

    The token has access to more than a task should reach: uploads of other projects, and APIs that change data on GET.

    Args:
        url: on Label Studio's origin.
        below: path of LABEL_STUDIO_URL, "" for none. The path of `url` may begin with it or not.
        task: id of the task.
        project: id of its project.
    """
    raw = url.raw_path.decode("ascii")
    path, _, query = raw.partition("?")
    spellings = _spellings(path)
    return bool(spellings) and all(
        _is_file_route(_without(below, spelling), query, task, project) for spelling in spellings
    )


def _spellings(text: str) -> list[str]:
    """List `text` percent-decoded zero times, once, twice, ...: a proxy may decode before Label Studio does, and Label
    Studio decodes some paths twice. Empty when a decoding changes the meaning, or when there are too many.
    """
    found = [text]
    while (decoded := unquote(found[-1])) != found[-1]:
        found.append(decoded)
        if len(found) > _MOST_SPELLINGS:
            return []
    return found if all(_is_plain(each) and each.count("/") == text.count("/") for each in found) else []


def _is_plain(path: str) -> bool:
    """Whether no segment of a path is empty, "." or "..", and parsers agree about every character."""
    parts = path.strip("/").split("/")
    return not ({"", ".", ".."} & set(parts) or path.startswith("//") or path.endswith("//")) and not any(
        char == "\\" or unicodedata.category(char) in _UNPRINTED for char in path
    )


def _without(below: str, path: str) -> str:
    for prefix in (below, unquote(below)):
        if prefix and path.startswith(f"{prefix}/"):
            return path.removeprefix(prefix)
    return path


def _is_file_route(path: str, query: str, task: int, project: int) -> bool:
    """Whether a path is a route of Label Studio 1.23 that serves a file. Its other routes are APIs and pages; avatars
    and exports are files of no task.
    """
    match path.split("/")[1:]:
        case ["static", _, *_]:
            return True
        case ["data", "upload", *inner]:
            return _is_upload_of(inner, project)
        case ["data", first, *_]:
            return first not in ("avatars", "export", "")
        case ["storage-data", "uploaded"] | ["storage-data", "uploaded", ""]:
            files = [value for name, value in parse_qsl(query, keep_blank_values=True) if name == "filepath"]
            return bool(files) and all(_is_upload_path(file, project) for file in files)
        case ["tasks", number, "presign" | "resolve"] | ["tasks", number, "presign" | "resolve", ""]:
            return number == str(task)
        case ["projects", number, "presign" | "resolve"] | ["projects", number, "presign" | "resolve", ""]:
            return number == str(project)
    return False


def _is_upload_path(file: str, project: int) -> bool:
    spellings = _spellings(file)
    return bool(spellings) and all(
        each.startswith("upload/") and _is_upload_of(each.split("/")[1:], project) for each in spellings
    )


def _is_upload_of(inner: list[str], project: int) -> bool:
    """Whether an upload, by its path below `upload`, is of a project; very old uploads are in no project's folder."""
    return bool(inner and inner[-1]) and (len(inner) == 1 or inner[0] == str(project))
