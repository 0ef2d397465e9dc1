"""The process that learns in the background.

Its flow: `learner` takes a due project; `training_round` decides whether to train; `reading` and `corrections` read the
corrections from Label Studio; `worker.learning.gate.decision` trains and decides; `worker.service.adapter_store` writes
the version; `promotion` moves the pointer and requests a refresh of the project. `second_recipe` trains a dense recipe
beside it, and `offer_round` has an adapter judged that a person offers. Between its steps a round checks its
lease and reports to people (`lease_guard`).
"""
