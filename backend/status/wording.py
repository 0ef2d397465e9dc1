"""Numbers, moments and names as the status page words them, and addresses in Label Studio."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import urlsplit

from plugin_config.model_version import ZEROSHOT
from plugin_config.overview.control import ProjectState
from plugin_config.versions.served import ServedCopy

_MINUTE, _HOUR, _DAY = 60, 3600, 86_400


def count(number: int, one: str, many: str = "") -> str:
    """ "1 task", "2 tasks", "10,000 tasks"."""
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"


def time_left(state: ProjectState) -> str:
    """How long the open tasks will take."""
    if state.eta_s is None:
        return "paused" if state.paused else "not known"
    if state.eta_s == 0:
        return ""
    return duration(state.eta_s)


def duration(seconds: float) -> str:
    """ "under a minute", "about 12 min", "about 3 h", "about 2 days"."""
    if seconds < _MINUTE:
        return "under a minute"
    if seconds < 90 * _MINUTE:
        return f"about {round(seconds / _MINUTE)} min"
    return f"about {round(seconds / _HOUR)} h" if seconds < 2 * _DAY else f"about {round(seconds / _DAY)} days"


def pace(per_s: float) -> str:
    """Tasks done a minute, over the last one."""
    return f"{per_s * _MINUTE:.0f} a minute" if per_s else ""


def moment(at: datetime | str) -> str:
    """A moment, UTC; of a text in ISO 8601 its first part."""
    return f"{at:%m-%d %H:%M:%S}" if isinstance(at, datetime) else str(at)[:16].replace("T", " ")


def version_name(name: str) -> str:
    """The name of a version for people."""
    return "zero-shot" if name == ZEROSHOT else name


def percent(part: int, whole: int) -> str:
    """ "80 % of 20"; "" of none."""
    return f"{100 * part / whole:.0f} % of {whole:,}" if whole else ""


@dataclass(frozen=True)
class LabelStudioLinks:
    """Addresses of pages in Label Studio.

    Attributes:
        public: the address that browsers see, where one is set; else the one that workers use.
        titles: id of a project -> its title.
    """

    public: str
    titles: Mapping[int, str]

    def name(self, project: int) -> str:
        """The title of a project, or its number."""
        return self.titles.get(project) or f"project {project}"

    def project(self, project: int, copy: ServedCopy | None) -> str:
        """Address of a project's page; "" where no worker has served it yet."""
        base = _http(self.public) or (_http(copy.owner.label_studio) if copy is not None else "")
        return f"{base}/projects/{project}/data" if base else ""

    def task(self, project: int, task: int, copy: ServedCopy | None) -> str:
        """Address of a task; "" likewise."""
        base = self.project(project, copy)
        return f"{base}?task={task}" if base else ""


def _http(address: str) -> str:
    """The address of a web server; "" for anything else, which a link must not lead to."""
    try:
        parts = urlsplit(address.strip())
        named = parts.scheme in ("http", "https") and parts.hostname and not parts.username
    except ValueError:
        return ""
    return f"{parts.scheme}://{parts.netloc}{parts.path}".rstrip("/") if named else ""
