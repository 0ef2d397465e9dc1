"""Checks of this machine and of Label Studio as a whole: settings, versions, token, clock, disk."""

from __future__ import annotations

import platform
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from email.utils import parsedate_to_datetime
from importlib.metadata import PackageNotFoundError, version

import httpx

from plugin_config.addresses import shown
from plugin_config.doctor.findings import Finding, ok, waits, warning, wrong
from plugin_config.doctor.installation import Installation
from plugin_config.errors import SettingsError, ZeromaskError
from plugin_config.label_studio.tokens import read_token, token_ends, token_kind
from plugin_config.queue.connection import redis_errors

TRIED = "1.23.2"
"""The release of Label Studio that all tests run on."""

_FOR_MASKS = ("torch", "open_clip_torch")
_PACKAGES = (*_FOR_MASKS, "redis", "rq")
_PYTHONS = ((3, 11), (3, 13))
_RELEASE = re.compile(r"(\d+)\.(\d+)(?:\.(\d+))?")
_SKEW_S = 30.0
_GB = 1e9
_LEAST_GB, _FEW_GB = 0.5, 3.0
_SOON_S = 14 * 86400


def check_settings(installation: Installation) -> Iterator[Finding]:
    """The settings can be read, and name Label Studio and a token."""
    settings = installation.settings
    url = shown(settings.label_studio_url)  # a password in it is refused, and not shown
    told = f"Label Studio at {url}, MODEL={settings.model}, backend at {settings.backend_url}"
    try:
        settings.require_guarded()
    except SettingsError as error:  # a worker's machine has no sign-in, a backend does not start like this
        yield warning(f"{told}; for a backend, {error.subject} {error.problem}", error.remedy)
    else:
        yield ok(told)


def check_versions(_: Installation) -> Iterator[Finding]:
    """The libraries are installed, and Python is one that was tried."""
    found, missing = [], []
    for name in ("zeromask", *_PACKAGES):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    if set(missing) - {*_FOR_MASKS}:
        yield wrong(
            f"not installed here: {', '.join(missing)}", "Install Zeromask anew: docs/guide/deployment.md#install."
        )
    elif missing:
        yield warning(
            f"not installed here: {', '.join(missing)}, without which no mask is drawn",
            "Run the doctor where a worker is installed, or with --no-mask.",
        )
    told = ", ".join([f"Python {platform.python_version()}", *found])
    present = tuple(map(int, platform.python_version_tuple()[:2]))
    if not _PYTHONS[0] <= present <= _PYTHONS[1]:
        yield warning(f"{told}; this Python was never tried", "Use one of 3.11 to 3.13.")
    elif not missing:
        yield ok(told)


def check_state_folder(installation: Installation) -> Iterator[Finding]:
    """The state folder can be written, and the disk has room."""
    path = installation.settings.state_path
    present = next(folder for folder in (path, *path.parents) if folder.exists())
    try:
        with tempfile.TemporaryFile(dir=present):
            pass
        free = shutil.disk_usage(present).free
    except OSError as error:
        yield wrong(f"{path} cannot be written ({error.strerror})", "Set ZEROMASK_STATE_DIR to a folder of this user.")
        return
    yield disk_finding(str(path), free)


def disk_finding(path: str, free: int) -> Finding:
    """What the free bytes of a disk mean for the state folder on it."""
    told = f"{free / _GB:.1f} GB are free for {path}"
    remedy = "Free some, or set ZEROMASK_STATE_DIR to another disk; ZEROMASK_IMAGE_CACHE_MB bounds what is kept there."
    if free < _LEAST_GB * _GB:
        return wrong(told, remedy)
    return warning(told, remedy) if free < _FEW_GB * _GB else ok(told)


def check_label_studio(installation: Installation) -> Iterator[Finding]:
    """Label Studio answers, and in a release that was tried."""
    answer = installation.ask_label_studio()
    url = shown(installation.settings.label_studio_url)
    release = ""
    with suppress(ValueError, AttributeError):
        release = str(answer.json().get("release") or "")
    if not release:
        where = answer.headers.get("location", "")
        problem = f"is redirected to {where[:200]}" if where else f"answers HTTP {answer.status_code} and no version"
        yield wrong(
            f"{url} {problem}: it is not Label Studio itself",
            "Set LABEL_STUDIO_URL to Label Studio's address, "
            "without the path of a page; not to the backend, a proxy's login page or another program.",
        )
        return
    yield release_finding(release, url)


def release_finding(release: str, url: str) -> Finding:
    """What the release of a Label Studio means."""
    tried, found = _RELEASE.match(TRIED), _RELEASE.match(release)
    told = f"Label Studio {release} answers at {url}"
    if tried is None or found is None:
        return warning(f"{told}, a release that is not known", f"Tried is {TRIED}.")
    if found.groups()[:2] == tried.groups()[:2]:
        return ok(told)
    newer = tuple(int(part or 0) for part in found.groups()) > tuple(int(part or 0) for part in tried.groups())
    remedy = f"All tests run on {TRIED}. " + (
        "Where something differs, that is the first thing to look at." if newer else "Update it where you can."
    )
    return warning(f"{told}, {'newer' if newer else 'older'} than what was tried", remedy)


def check_token(installation: Installation) -> Iterator[Finding]:
    """Label Studio accepts the token."""
    token = read_token(installation.settings.label_studio_api_key)
    kind = token_kind(token)
    user = installation.label_studio.request("GET", "/api/current-user/whoami")
    name = str(user.get("email") or user.get("username") or "?") if isinstance(user, dict) else "?"
    told = f"{kind} of {name} is accepted"
    ends = token_ends(token)
    if ends and ends - time.time() < _SOON_S:
        yield warning(
            f"{told}, and ends in {max(0.0, ends - time.time()) / 86400:.0f} days",
            "Make a new one under Account & Settings and set LABEL_STUDIO_API_KEY to it.",
        )
        return
    yield ok(told)


def check_clock(installation: Installation) -> Iterator[Finding]:
    """The clocks of this machine, Label Studio and Redis agree."""
    skews = {}
    if installation.answered is not None and (moment := _date(installation.answered)) is not None:
        skews["Label Studio"] = moment.timestamp() - time.time()
    with suppress(ZeromaskError):
        skews["Redis"] = redis_errors(lambda: float(installation.redis.time()[0]))() - time.time()
    yield clock_finding(skews) if skews else waits(("label studio", "redis"))


def clock_finding(skews: dict[str, float]) -> Finding:
    """What it means that other machines' clocks are ahead of this one's.

    Args:
        skews: whose -> by how many seconds.
    """
    far = {name: skew for name, skew in skews.items() if abs(skew) > _SKEW_S}
    if not far:
        return ok(f"that of {' and '.join(skews)} agrees with this machine's")
    told = ", ".join(
        f"{name} is {abs(s):.0f} s {'ahead of' if s > 0 else 'behind'} this machine" for name, s in far.items()
    )
    return warning(told, "Let NTP set the clocks: times shown would be wrong, and certificates and tokens refused.")


def _date(answer: httpx.Response) -> datetime | None:
    try:
        return parsedate_to_datetime(answer.headers["date"])
    except (KeyError, ValueError, TypeError):
        return None
