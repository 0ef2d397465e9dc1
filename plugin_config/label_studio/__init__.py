"""The client of Label Studio's API, its tokens, and what it reads: projects, tasks, annotations, webhooks.

Nothing here knows queues, models or masks.
"""
