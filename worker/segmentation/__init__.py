"""Image + vocabulary -> masks, as a plain library.

It must not depend on Redis, HTTP, Label Studio or `worker.learning`.
"""
