"""What the buttons of the status page do, and what is told of it afterwards."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from redis import Redis

from backend.status.wording import version_name
from plugin_config.errors import JobError
from plugin_config.model_version import ZEROSHOT, adapter_number
from plugin_config.overview.control import QueueControl
from plugin_config.queue.jobs import parse_id
from plugin_config.settings import Settings
from plugin_config.versions.rollback import roll_back

_REMEDY = "Press a button of the status page."
_TOLD: Mapping[str, Callable[[str], str]] = {
    "pause": lambda _: "Paused. What workers hold is finished; no more tasks are taken until it is resumed.",
    "resume": lambda _: "Resumed.",
    "retry": lambda what: f"{what} failed tasks are queued again.",
    "cancel": lambda what: f"{what} tasks are cancelled. They may be requested again.",
    "serve": lambda what: f"{version_name(what)} is served from now on. Predictions of tasks that nobody has annotated "
    "are made again.",
}


@dataclass(frozen=True)
class Action:
    """A button that was pressed.

    Attributes:
        name: "pause", "resume", "retry", "cancel" or "serve".
        project: id of the project.
        what: id of the only task to retry, or name of the version to serve; "" = none is named.
    """

    name: str
    project: int
    what: str = ""

    @classmethod
    def of(cls, fields: Mapping[str, str]) -> Action:
        """The action that a form asks for.

        Raises:
            JobError: no button sends this.
        """
        name, _, what = fields.get("action", "").partition(":")
        project = parse_id(fields.get("project", ""))
        if project is None or name not in _TOLD:
            raise JobError("form", "names no project, or nothing that can be done", _REMEDY)
        task_named = name == "retry" and (not what or parse_id(what) is not None)
        version_named = name == "serve" and (what == ZEROSHOT or adapter_number(what) > 0)
        if not (task_named or version_named or (name not in ("retry", "serve") and not what)):
            raise JobError("form", "names no task or version", _REMEDY)
        return cls(name, project, what)

    def carry_out(self, redis: Redis, settings: Settings) -> str:
        """Do it; returns what `told` wants to know.

        Raises:
            JobError: the queue never had a task of the project.
            LearningError: there is no such version, it is damaged, or no running worker would serve it.
            VersionsUnavailable: the versions can be neither read nor written from here.
            QueueUnavailable: Redis does not answer.
        """
        control = QueueControl(redis, settings)
        if not control.knows(self.project):
            raise JobError(f"project {self.project}", "has asked for no predictions yet", "Look at all projects.")
        if self.name == "pause":
            control.pause(self.project)
        elif self.name == "resume":
            control.resume(self.project)
        elif self.name == "retry":
            return str(control.retry(self.project, [int(self.what)] if self.what else ()))
        elif self.name == "cancel":
            return str(control.cancel(self.project))
        else:
            return roll_back(redis, self.project, settings.model, self.what).after
        return ""


def told(name: str, what: str) -> str:
    """The sentence about what was done, from the address of the page; "" for an address that no action leads to."""
    known = what == "" or what == ZEROSHOT or adapter_number(what) > 0 or (what.isascii() and what.isdigit())
    return _TOLD[name](what[:40]) if name in _TOLD and known else ""
