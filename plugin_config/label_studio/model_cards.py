"""The card of a connected model in a project's settings: its title is the one text of ours that Label Studio shows.

Its page shows neither the description of a model, nor what `/setup`, `/health` or *Start Training* answer (1.23).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from plugin_config.label_studio.annotations import ApiClient
from plugin_config.label_studio.transport import unexpected_answer

SIGN = " ▸ "
"""Stands between the title that a person gave and what is told behind it."""

_MOST_TOLD = 200  # characters


@dataclass(frozen=True)
class ModelCard:
    """A model connected to a project.

    Attributes:
        id: of the connection.
        project: id of the project.
        url: of the model.
        title: as it is shown.
        user: with which Label Studio signs in; "" = it does not.
    """

    id: int
    project: int
    url: str
    title: str
    user: str = ""

    def telling(self, note: str) -> str:
        """The title with a note behind it, in place of an earlier one; "" = none."""
        named = given_title(self.title)
        told = note if len(note) <= _MOST_TOLD else f"{note[: _MOST_TOLD - 3]}..."
        return f"{named}{SIGN}{told}" if told else named


def given_title(title: str) -> str:
    """The title of a model as a person gave it, without what is told behind it."""
    return title.partition(SIGN)[0].rstrip()


def model_cards(label_studio: ApiClient, project: int) -> list[ModelCard]:
    """The models connected to a project. Label Studio asks each of them whether it is up.

    Raises:
        LabelStudioError: it does not answer, or refuses.
    """
    rows: Any = label_studio.request("GET", "/api/ml/", params={"project": project})
    try:
        return [
            ModelCard(int(row["id"]), project, str(row["url"]), str(row["title"] or ""),
                      str(row.get("basic_auth_user") or "") if row.get("auth_method") == "BASIC_AUTH" else "")
            for row in rows
        ]  # fmt: skip
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise unexpected_answer("the connected models", error) from error


def rename(label_studio: ApiClient, card: ModelCard, title: str) -> None:
    """Change the title of a model. Where the project shows that model's predictions by its title, Label Studio follows.

    Raises:
        LabelStudioError: it does not answer, or refuses, as where the model does not answer it.
    """
    body = {"project": card.project, "url": card.url, "title": title}
    if card.user:  # Label Studio tries the connection again; an empty password stands for the one it has
        body |= {"auth_method": "BASIC_AUTH", "basic_auth_user": card.user, "basic_auth_pass": ""}
    label_studio.request("PATCH", f"/api/ml/{card.id}", json=body)
