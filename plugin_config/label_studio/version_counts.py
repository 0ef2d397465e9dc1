"""Which versions of predictions a project has, in one request however many tasks there are."""

from __future__ import annotations

from collections.abc import Mapping

from plugin_config.label_studio.annotations import ApiClient
from plugin_config.label_studio.transport import unexpected_answer


def version_counts(label_studio: ApiClient, project: int) -> Mapping[str, int]:
    """Version -> how many predictions of it are stored; "" = of none, of which Label Studio (1.23) counts 0.

    Raises:
        LabelStudioError: it refuses, or its answer is not as expected.
    """
    path = f"/api/projects/{project}/model-versions/"
    found = label_studio.request("GET", path, params={"extended": "true"})
    try:
        rows = found["static"] if isinstance(found, dict) and "static" in found else found
        if isinstance(rows, dict):
            return {str(name or ""): int(count) for name, count in rows.items()}
        return {str(row["model_version"] or ""): int(row["count"]) for row in rows}
    except (KeyError, TypeError, ValueError) as error:
        raise unexpected_answer("the versions of predictions", error) from error
