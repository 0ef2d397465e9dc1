"""The one Label Studio client, its tokens, and what it reads: projects, tasks, annotations, webhooks."""
