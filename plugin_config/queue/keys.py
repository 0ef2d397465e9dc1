"""The names of the RQ queues both halves share. It must not know what travels through them."""

from __future__ import annotations

QUEUE = "zeromask-predict"
LOOK_QUEUE = "zeromask-look"
LEARN_QUEUE = "zeromask-learn"
QUEUES = (QUEUE, LOOK_QUEUE, LEARN_QUEUE)
