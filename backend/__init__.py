"""The backend: answers Label Studio in milliseconds and leaves the work to workers, through Redis.

It must not import torch or `worker`. Inside, `server` receives requests (waitress), `app` and `views` answer them
(Falcon), `model` is what Label Studio calls a model, and `queue_client` is the only way to Redis; only `app`, `views`
and `responses` know the web framework.
"""
