"""What backend, worker and commands share: settings, errors, vocabulary, the queue, Label Studio's client, versions.

It imports neither torch nor a web framework, and neither `backend` nor `worker`.
"""
