"""The control arm: tasks that are shown without a prediction, so that what predictions save can be compared."""

from __future__ import annotations

import hashlib


def in_control_arm(task: int, share: float) -> bool:
    """Whether a task is of the control arm. Its id alone decides, so it stays there; a larger share adds tasks. Which
    images are held out from training is drawn independently.

    Args:
        task: its id.
        share: of all tasks, 0 to 0.5; the ZEROMASK_CONTROL_SHARE setting.
    """
    drawn = int.from_bytes(hashlib.sha256(f"control arm {task}".encode()).digest()[:6]) / 2**48
    return drawn < share
