"""Text -> an address that one parser has read, whose origin can be compared, and Label Studio's file routes.

Only `httpx.URL` reads addresses here, because httpx also sends the requests: two parsers that disagree about where a
host ends is how a token goes astray. It must not know who fetches what.
"""

from __future__ import annotations

import re
import unicodedata
from urllib.parse import parse_qsl, unquote

import httpx

_SCHEME_PORTS = {"http": 80, "https": 443}
_UNPRINTED = frozenset({"Cc", "Cs", "Zl", "Zp"})  # controls (C0, DEL, C1), half signs, line and paragraph separators
_HOST = re.compile(rb"[a-z0-9._-]+|[0-9a-fA-F:.]+")  # a name or an IPv4 address, or an IPv6 one without a zone
_USER_NAME = re.compile(r"[^/?#]*//[^/?#]*@")
_MOST_SPELLINGS = 4

MOST_CHARACTERS = 65_536
"""The longest address that is read; httpx reads none longer."""

ALLOWED_PATHS = (
    "Allowed are files under /data/ (of uploads, those of the task's own project), /static/ and"
    " /storage-data/uploaded/, and presign and resolve of the task or its project."
)
"""What `holds_file_of` lets pass, as a sentence for people."""


def read_address(text: str, base: httpx.URL | None = None) -> httpx.URL:
    """Read an http or https address; spaces around it are not part of it.

    Args:
        text: as a task, a setting or a `Location` header gives it.
        base: what a relative `text` is relative to; without it only whole addresses are read.

    Raises:
        ValueError: too long, a character that parsers are known to drop or turn (controls, backslash), a user name in
            it, a host or port that is none, another scheme, or a relative address without a base.
    """
    if len(text) > MOST_CHARACTERS:  # a picture inside its address is looked at no further
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
            url = httpx.URL(str(base.join(url)))  # read anew: what is judged is what will be sent
    except httpx.InvalidURL as error:
        raise ValueError(str(error)) from error
    if url.scheme not in _SCHEME_PORTS:
        raise ValueError("it does not begin with http:// or https://")
    if url.userinfo:
        raise ValueError("it holds a user name")
    if not _HOST.fullmatch(url.raw_host):
        raise ValueError("its host is none" if url.raw_host else "it names no host")
    if url.port is not None and not 0 < url.port < 65536:
        raise ValueError("its port is none")
    return url


def origin_of(url: httpx.URL) -> tuple[str, bytes, int]:
    """Scheme, host as it is sent, and port of an address, the port filled in."""
    return url.scheme, url.raw_host.lower(), url.port if url.port is not None else _SCHEME_PORTS.get(url.scheme, 0)


def holds_file_of(url: httpx.URL, *, below: str, task: int, project: int) -> bool:
    """Whether an address of Label Studio is a route that serves files, and of this task's project where that can be
    told. The token may see more than a task should: other projects' uploads, and APIs that change something on GET.

    Args:
        url: on Label Studio's origin.
        below: path of LABEL_STUDIO_URL, "" for none. It may stand before the route and may be missing.
        task: id of the task; project: of its project.
    """
    raw = url.raw_path.decode("ascii")
    path, _, query = raw.partition("?")
    spellings = _spellings(path)
    return bool(spellings) and all(
        _is_file_route(_without(below, spelling), query, task, project) for spelling in spellings
    )


def _spellings(text: str) -> list[str]:
    """`text` and what is left when it is percent-decoded once, twice, ...: a proxy may decode before Label Studio does,
    and Label Studio decodes some paths twice. Empty when a decoding would change its meaning or never ends.
    """
    found = [text]
    while (decoded := unquote(found[-1])) != found[-1]:
        found.append(decoded)
        if len(found) > _MOST_SPELLINGS:
            return []
    return found if all(_is_plain(each) and each.count("/") == text.count("/") for each in found) else []


def _is_plain(path: str) -> bool:
    """Whether no part of a path is empty, a dot or two dots, and no character in it is taken for another."""
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
    """Label Studio 1.23's routes that answer with a file. Its other routes, APIs and pages, are not for images; avatars
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
    """`inner`: the path behind `upload`. Uploads lie in a folder of their project; very old ones lie in none."""
    return bool(inner and inner[-1]) and (len(inner) == 1 or inner[0] == str(project))
