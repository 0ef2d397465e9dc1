"""The client of Label Studio's API, its tokens, and what it reads: projects, tasks, annotations, webhooks.

It must not depend on the queue, on models or on masks.
"""
