"""All attacks in the order in which they are run. Each takes a Label Studio and a scale: 1.0 is the whole attack, less
the short form.
"""

from __future__ import annotations

from collections.abc import Callable

from tests.attack import doors, machine, pictures, tampering
from tests.attack.ground import Row
from tests.faults.stand import Serving

Attack = Callable[[Serving, float], Row]

ATTACKS: tuple[Attack, ...] = (
    pictures.token_leaves, pictures.private_addresses, pictures.other_paths, pictures.compressed_answers,
    pictures.needles, pictures.vast_pictures, pictures.hanging_images, pictures.dear_files, pictures.many_labels,
    doors.config_bomb, doors.webhook_flood, doors.half_open, doors.cheap_bytes,
    doors.empty_lists, doors.strange_hosts, doors.sign_in,
    tampering.odd_members, tampering.wrong_types, tampering.forged_jobs, tampering.damaged_spool,
    tampering.damaged_versions, machine.redis_without_password, machine.open_files,
)  # fmt: skip
