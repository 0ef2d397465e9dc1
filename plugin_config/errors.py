"""Every error this project raises on purpose.

ZeromaskError
├── SettingsError          a setting is missing or has a value it cannot have
├── EnvironmentBroken      something this machine must provide does not work (port, disk, network, process)
├── LabelingConfigError    a labeling config names nothing that could be segmented
├── JobError               a queued job or a request body is not what the contract says
├── RequestRefused         a request is refused for its sign-in, its Host header or its size
├── QueueUnavailable       Redis does not answer, or accepts nothing now
│   ├── QueueDamaged             it holds something that this project does not write
│   └── QueueFull                too many tasks, or unknown projects, are waiting already
├── LabelStudioError       Label Studio refused a request
│   ├── ProjectGone              it has no project of that number, or shows this user none
│   ├── AnswerTooLarge           its answer is too large to be read
│   ├── AnswerMalformed          its answer has another form than is known
│   ├── LabelStudioFailing       it, or a proxy in its place, cannot serve the request now (HTTP 429 or 5xx, or a 404
│   │                            that is not its own)
│   └── LabelStudioUnreachable   it did not answer at all
├── TaskDataError          the data of a task lacks what its project's labeling config asks for
├── ImageUnavailable       an image cannot be fetched or read
│   ├── ImageTooLarge            its file, or its number of pixels, is above the limit
│   └── ImageHostTrouble         its server is slow, down or in trouble
│       └── ImageHostBusy            it says that it gets too many requests
├── ModelUnavailable       a model cannot be loaded
├── LearningError          nothing can be learned from some corrections, or a learned version cannot be read
├── VersionsUnavailable    the place of the learned versions cannot be read or written
├── RegionError            a mask or a region cannot be encoded or decoded
└── PromptError            clicks and boxes from which no mask can be made

Each names its subject (which task, file, setting), what is wrong with it, and the remedy.
"""

from __future__ import annotations

from collections.abc import Mapping

from plugin_config.printable import printable


class ZeromaskError(Exception):
    """Base of the tree. `str()` reads as one sentence a person can act on: "subject: problem. Remedy."

    Args:
        subject: what the error is about, as the reader knows it ("task 12", "setting REDIS_URL").
        problem: what is wrong, in lower case and without a full stop.
        remedy: what to do about it, as a sentence.
    """

    def __init__(self, subject: str, problem: str, remedy: str) -> None:
        super().__init__(subject, problem, remedy)
        self.subject = subject
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        return printable(f"{self.subject}: {self.problem}. {self.remedy}")


class SettingsError(ZeromaskError):
    """A setting is missing or has a value it cannot have."""


class EnvironmentBroken(ZeromaskError):
    """Something this machine must provide does not work: a port, the disk, the network, a child process."""


class LabelingConfigError(ZeromaskError):
    """A labeling config is not XML, or names nothing that could be segmented."""


class JobError(ZeromaskError):
    """A queued job or a request body is not what the contract says."""


class RequestRefused(ZeromaskError):
    """A request is refused. `status` is the HTTP status to answer with, `headers` go with it."""

    def __init__(
        self, subject: str, problem: str, remedy: str, *, status: int, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(subject, problem, remedy)
        self.status = status
        self.headers = dict(headers or {})


class QueueUnavailable(ZeromaskError):
    """Redis does not answer, or accepts nothing now: worth trying again."""


class QueueDamaged(QueueUnavailable):
    """Redis holds something that this project does not write, and that could not be moved away."""


class QueueFull(QueueUnavailable):
    """Too many tasks, or unknown projects, are waiting already."""


class LabelStudioError(ZeromaskError):
    """Label Studio refused a request. `status` is the HTTP status, 0 when there was no answer of its own."""

    def __init__(self, subject: str, problem: str, remedy: str, *, status: int = 0) -> None:
        super().__init__(subject, problem, remedy)
        self.status = status


class ProjectGone(LabelStudioError):
    """Label Studio was asked for a project, and has none of that number, or shows this user none. Any other thing may
    be missing although its project is there.
    """


class AnswerTooLarge(LabelStudioError):
    """An answer of Label Studio is too large to be read: fewer things must be asked for at once."""


class AnswerMalformed(LabelStudioError):
    """An answer of Label Studio has another form than is known: of one thing, which is malformed, or of all."""


class LabelStudioFailing(LabelStudioError):
    """Label Studio, or a proxy before it, answered HTTP 429 or 5xx, or a 404 that is not Label Studio's own: worth
    trying again. A 500 may be about the one thing that was asked for; the others are about Label Studio as a whole.
    """


class LabelStudioUnreachable(LabelStudioError):
    """Label Studio did not answer at all: worth trying again, nothing is wrong with the request."""


class TaskDataError(ZeromaskError):
    """The data of a task lacks what its project's labeling config asks for, or has it in another form."""


class ImageUnavailable(ZeromaskError):
    """An image cannot be fetched or read."""


class ImageTooLarge(ImageUnavailable):
    """An image's file, or its number of pixels, is above the limit."""


class ImageHostTrouble(ImageUnavailable):
    """An image's server is slow, down or in trouble: worth trying again."""


class ImageHostBusy(ImageHostTrouble):
    """An image's server says that it gets too many requests: worth trying again after minutes."""


class ModelUnavailable(ZeromaskError):
    """A model cannot be loaded. Never answered with a random or another model."""


class LearningError(ZeromaskError):
    """Nothing can be learned from some corrections, or a learned version cannot be read."""


class VersionsUnavailable(ZeromaskError):
    """The place of the learned versions cannot be read or written: worth trying again."""


class RegionError(ZeromaskError):
    """A mask or a Label Studio region cannot be encoded or decoded."""


class PromptError(ZeromaskError):
    """Clicks and boxes from which no mask can be made: outside of the image, of no size, or contradicting."""
