"""The client as every process opens it: from the settings."""

from __future__ import annotations

from plugin_config.label_studio.client import LabelStudio
from plugin_config.settings import Settings


def label_studio_of(settings: Settings, *, timeout_s: float = 60.0) -> LabelStudio:
    """A client of the Label Studio that the settings name.

    Args:
        settings: address, token and certificates.
        timeout_s: as `LabelStudio` takes it; shorter where a person waits.

    Raises:
        LabelStudioError: the address or the token is none.
    """
    return LabelStudio(
        settings.label_studio_url,
        settings.label_studio_api_key,
        timeout_s=timeout_s,
        ca_bundle=settings.ca_bundle,
        public_urls=settings.label_studio_public_url,
        contact=settings.contact,
    )
