"""State that one commit wrote and another one reads: the state folder and the Redis file in it.

`previous/` was written by the commit before the queue's contract had a number, by `python -m tests.upgrade --keep`.
"""
