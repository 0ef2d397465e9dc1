"""What runs in a worker: jobs, leases, the pipeline, posting, reconciling, the heartbeat.

It stands on the libraries (`worker.segmentation`, `worker.learning`, `worker.label_studio`); only `worker.lab` and
`worker.__main__` import it.

A task's way: `queue_worker` runs a job, `admission` leases its tasks and reads the project's `plan`, `pipeline` moves
each through `stages`, `posting` stores the prediction, `leases` reports how the task ended. `failures` says what
becomes of a task after an error.
"""
