"""The queue in Redis: its keys, the connection, jobs, tasks by state, hints, learning, presence of workers.

It must not depend on Label Studio's API, on learned versions, or on anything of a model.
"""
