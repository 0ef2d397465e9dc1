"""Pages made of parts, each of which is replaced by itself when it changes. Every text in them is escaped here.

A box holds parts: the rows of a table, say. The script asks for what changed by sending the digests of the parts it
has; `docs/reference/http.md` describes the exchange.
"""

from __future__ import annotations

import hashlib
import html
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from plugin_config.printable import one_line

MOST_UPDATE = 18_000
"""Bytes of an update; what does not fit comes with the next one."""

_MOST_TEXT = 300  # characters of a text that others wrote
_MOST_HAD = 32_000  # characters of the digests that a script sends
_KINDS = {"#": ' class="number"', "~": ' class="long"'}


def text(value: object, *, most: int = _MOST_TEXT) -> str:
    """A text of anybody's, in one line, of bounded length, escaped for HTML."""
    found = one_line(" ".join(str(value).split()))
    return html.escape(found if len(found) <= most else f"{found[: most - 1]}…")


@dataclass(frozen=True)
class Part:
    """A piece of a page that is replaced as a whole.

    Attributes:
        key: letters, digits and dashes; unique on its page.
        tag: of its element.
        inner: HTML inside of the element.
    """

    key: str
    tag: str
    inner: str

    @property
    def digest(self) -> str:
        """Another one for another content."""
        return hashlib.sha256(self.inner.encode()).hexdigest()[:8]

    @property
    def html(self) -> str:
        """The element."""
        return f'<{self.tag} id="{self.key}" data-v="{self.digest}">{self.inner}</{self.tag}>'


@dataclass(frozen=True)
class Box:
    """Parts in their order.

    Attributes:
        name: unique on its page.
        parts: all of one tag.
        before, after: HTML around the element that holds them; `holder` is its tag, `attributes` its attributes.
    """

    name: str
    parts: tuple[Part, ...]
    before: str = ""
    after: str = ""
    holder: str = "div"
    attributes: str = ""

    @property
    def html(self) -> str:
        """The box with its parts."""
        inner = "".join(part.html for part in self.parts)
        opening = f'<{self.holder} data-box="{self.name}"{self.attributes}>'
        return f"{self.before}{opening}{inner}</{self.holder}>{self.after}"


@dataclass(frozen=True)
class Page:
    """A page.

    Attributes:
        title: plain text.
        boxes: from top to bottom.
        root: path from the page to the folder of its routes, "" or "../".
        update: address of its updates, relative to the page.
        nav: HTML of the links at its top.
        form: hidden fields of its form, name -> value; buttons in boxes name it by `form="act"`. None = no form.
        message: what was done, or went wrong, as plain text; "" = nothing.
        failed: whether the message is of something that went wrong.
    """

    title: str
    boxes: tuple[Box, ...]
    root: str = ""
    update: str = ""
    nav: str = ""
    form: Mapping[str, str] | None = None
    message: str = ""
    failed: bool = False

    @property
    def html(self) -> bytes:
        """The whole document."""
        live = f' data-update="{text(self.update)}"' if self.update else ""
        message = f'<p class="message{" failed" * self.failed}" role="{"alert" if self.failed else "status"}">' \
            f"{text(self.message, most=1000)}</p>" if self.message else ""  # fmt: skip
        script = f'<script src="{self.root}status.js" defer></script>' if self.update else ""
        document = (
            f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{text(self.title)}</title>'
            '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
            f'<link rel="stylesheet" href="{self.root}status.css">{script}</head><body{live}>'
            f'<a class="skip" href="#main">Skip to the content</a><header><h1>{text(self.title)}</h1>'
            f'<nav aria-label="Pages">{self.nav}</nav></header><main id="main">{message}{self._form()}'
            '<p id="connection" role="status"></p>'
            f"{''.join(box.html for box in self.boxes)}</main>"
            "<footer><p><noscript>Reload the page to see what changed. </noscript>Times are UTC.</p></footer>"
            "</body></html>\n"
        )
        return document.encode()

    def changes(self, had: str) -> bytes:
        """The update for a script that has some of the parts, as JSON of at most MOST_UPDATE bytes.

        Args:
            had: "key.digest" of each part, with commas between them.

        Returns:
            `boxes`: name -> keys of its parts in their order; `parts`: key -> element, of those that changed; `more`:
            whether some did not fit. One that fits in no update stays as it is until the page is opened again.
        """
        pairs = (item.partition(".") for item in had[:_MOST_HAD].split(","))
        known = {key: digest for key, _, digest in pairs}
        boxes = {box.name: [part.key for part in box.parts] for box in self.boxes}
        changed = [part for box in self.boxes for part in box.parts if known.get(part.key) != part.digest]
        left = room = MOST_UPDATE - len(_json({"boxes": boxes, "parts": {}, "more": False}))
        parts, more = dict[str, str](), False
        for part in changed:
            size = len(_json({part.key: part.html}))
            if size <= left:
                parts[part.key] = part.html
                left -= size
            else:
                more |= size <= room
        return _json({"boxes": boxes, "parts": parts, "more": more})

    def _form(self) -> str:
        if self.form is None:
            return ""
        fields = "".join(
            f'<input type="hidden" name="{text(name)}" value="{text(value)}">' for name, value in self.form.items()
        )
        return f'<form id="act" method="post" action="project">{fields}</form>'


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        key: see `Part.key`.
        cells: HTML; the first one is the row's header.
    """

    key: str
    cells: tuple[str, ...]


def table(
    name: str, title: str, columns: Sequence[str], rows: Iterable[Row], *, empty: str, note: str = ""
) -> Box:
    """A section with a table whose rows are parts.

    Args:
        name: of the box.
        title: plain text.
        columns: plain text; one that begins with "#" holds numbers, one that begins with "~" whole sentences.
        rows: of the table.
        empty: plain text in place of rows where there is none.
        note: HTML under the heading.
    """
    heads = [(column.lstrip("#~"), _KINDS.get(column[0], "")) for column in columns]
    parts = [Part(row.key, "tr", _cells(row.cells, [kind for _, kind in heads])) for row in rows]
    if not parts:
        parts = [Part(f"{name}-none", "tr", f'<td colspan="{len(columns)}" class="none">{text(empty, most=600)}</td>')]
    head = "".join(f'<th scope="col"{kind}>{text(column)}</th>' for column, kind in heads)
    before = (
        f'<section aria-labelledby="{name}-title"><h2 id="{name}-title">{text(title)}</h2>{note}'
        f'<div class="scroll" role="region" aria-labelledby="{name}-title" tabindex="0">'
        f"<table><thead><tr>{head}</tr></thead>"
    )
    return Box(name, tuple(parts), before, "</table></div></section>", holder="tbody")


def plain(name: str, title: str, parts: Iterable[Part]) -> Box:
    """A section whose parts are paragraphs, lists or pictures."""
    before = f'<section aria-labelledby="{name}-title"><h2 id="{name}-title">{text(title)}</h2>'
    return Box(name, tuple(parts), before, "</section>")


def lead(sentence: str, *, more: str = "") -> Box:
    """The sentence at the top, which screen readers tell when it changes; `more` is HTML behind it."""
    return Box("lead", (Part("lead-text", "p", f"<strong>{text(sentence)}</strong>{more}"),),
               attributes=' role="status" class="lead"')  # fmt: skip


def link(key: str, address: str, shown: object) -> str:
    """A link that keeps the focus over an update, which its unique `key` is for; plain text where there is no address.
    """
    return f'<a id="{key}" href="{text(address, most=2000)}">{text(shown)}</a>' if address else text(shown)


def button(key: str, action: str, shown: str, *, described: str = "") -> str:
    """A button of the page's form; `described` says for screen readers what it is about."""
    label = f' aria-label="{text(described)}"' if described else ""
    return f'<button id="{key}" form="act" name="action" value="{text(action)}"{label}>{text(shown)}</button>'


def _json(found: object) -> bytes:
    return json.dumps(found, ensure_ascii=False).encode()


def _cells(cells: Sequence[str], kinds: Sequence[str]) -> str:
    first, *rest = cells
    others = "".join(f"<td{kind}>{cell}</td>" for cell, kind in zip(rest, kinds[1:], strict=True))
    return f'<th scope="row"{kinds[0]}>{first}</th>{others}'
