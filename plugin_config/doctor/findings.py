"""What a check found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from plugin_config.errors import ZeromaskError
from plugin_config.printable import one_line

State = Literal["ok", "warning", "wrong", "waits"]
_LONGEST = 600  # characters of a sentence: it may quote an answer


@dataclass(frozen=True)
class LabelRow:
    """What becomes of one label of a labeling config.

    Attributes:
        label: its key.
        control: name of the control tag that has it.
        filled: what is drawn or chosen for it, for people.
        texts: the words that are looked for.
        described: whether these say more than its name: a prompt, synonyms or a hint.
    """

    label: str
    control: str
    filled: str
    texts: tuple[str, ...]
    described: bool


@dataclass(frozen=True)
class Finding:
    """The outcome of a check.

    Attributes:
        check: its name.
        state: "wrong": it keeps something from working; "warning": a person should know it; "waits": the check could
            not be made before another one is in order.
        sentence: what was found: the cause, where the state is not "ok".
        remedy: what to do about it; "" = nothing, or what `sentence` names.
        project: what it is about; None = the installation.
        labels: what becomes of each label, where the check is about them.
        unread: label -> the words of it that the model does not know, where the check is about them.
        picture: path of a picture that was written, "" = none.
    """

    check: str
    state: State
    sentence: str
    remedy: str = ""
    project: int | None = None
    labels: tuple[LabelRow, ...] = ()
    unread: tuple[tuple[str, tuple[str, ...]], ...] = ()
    picture: str = ""

    def as_json(self) -> dict[str, Any]:
        """The finding for programs, without what is empty."""
        row = asdict(self)
        row["unread"] = dict(self.unread)
        kept = ("check", "state", "sentence")
        return {name: value for name, value in row.items() if name in kept or value not in ("", None, (), {})}


def ok(sentence: str) -> Finding:
    """Nothing is wrong. As in the other functions here, whoever runs the check fills in its name."""
    return Finding("", "ok", _bounded(sentence))


def warning(sentence: str, remedy: str) -> Finding:
    """Something that a person should know."""
    return Finding("", "warning", _bounded(sentence), _bounded(remedy))


def wrong(sentence: str, remedy: str) -> Finding:
    """Something that keeps something from working."""
    return Finding("", "wrong", _bounded(sentence), _bounded(remedy))


def wrong_by(error: ZeromaskError) -> Finding:
    """What an error of this project says."""
    return wrong(f"{error.subject}: {error.problem}", error.remedy)


def waits(names: Sequence[str]) -> Finding:
    """A check that needs others."""
    return Finding("", "waits", f"not checked before these are in order: {', '.join(names)}")


def first_cause(findings: Sequence[Finding]) -> Finding | None:
    """The finding to begin with: the first that is wrong, or else the first warning. Checks stand in the order in which
    one needs the other.
    """
    for state in ("wrong", "warning"):
        for finding in findings:
            if finding.state == state:
                return finding
    return None


def _bounded(text: str) -> str:
    text = one_line(text).strip()
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
