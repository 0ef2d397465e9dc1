"""The process that learns in the background.

Its flow: `learner` takes a due project; `training_round` decides whether to train; `reading` and `corrections` read the
corrections from Label Studio; `worker.learning.gate.decision` trains and decides; `worker.service.adapter_store` writes
the version; the round moves the pointer and requests a refresh of the project. Between its steps a round checks its
lease and reports to people (`lease_guard`).
"""
