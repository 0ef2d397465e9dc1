"""The web half: answers Label Studio in milliseconds, queues the work. Never imports torch or `worker`."""
