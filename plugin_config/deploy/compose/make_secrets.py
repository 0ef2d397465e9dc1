"""Make the secrets that compose.yaml and the Helm chart name, each in a file of its own.

A person runs it, as docs/guide/deployment.md says. Files that are there stay as they are. The token of Label Studio is
left empty for a person to fill in. It needs the standard library alone.
"""

from __future__ import annotations

import secrets
import sys
from collections.abc import Sequence
from pathlib import Path

FOLDER = Path(__file__).resolve().parent / "secrets"
_RIGHTS = "~* &* +@all -@admin -@dangerous +client|list +info +keys"  # as plugin_config/local/embedded_redis.py


def main(arguments: Sequence[str]) -> int:
    """Write what is missing; returns the exit status.

    Args:
        arguments: the folder, beside this file by default; the host of Redis, "redis" by default.
    """
    folder = Path(arguments[0]) if arguments else FOLDER
    host = arguments[1] if len(arguments) > 1 else "redis"
    password = secrets.token_urlsafe(24)
    together = {
        "redis_url": f"redis://:{password}@{host}:6379/0",
        "redis_users": f"user default on >{password} {_RIGHTS}\nuser health on nopass resetkeys -@all +ping\n",
    }
    alone = {
        "zeromask_password": secrets.token_urlsafe(24),
        "zeromask_webhook_secret": secrets.token_urlsafe(24),
        "label_studio_api_key": "",
    }
    # Its owner alone gets into the folder; in a container a file has the rights it has here, for a user of another id.
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if len(there := [name for name in together if (folder / name).exists()]) == 1:
        sys.stderr.write(f"{folder}: {there[0]} is there without its counterpart, which has the same password. "
                         "Delete it and run this again.\n")  # fmt: skip
        return 2
    for name, text in {**together, **alone}.items():
        if not (folder / name).exists():
            (folder / name).write_text(text, encoding="utf-8")
            (folder / name).chmod(0o644)
    if not (folder / "label_studio_api_key").read_text(encoding="utf-8").strip():
        sys.stdout.write(f"Put a personal access token of Label Studio into {folder / 'label_studio_api_key'}.\n")
    sys.stdout.write(f"Label Studio signs in as label-studio, with the password in {folder / 'zeromask_password'}.\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
