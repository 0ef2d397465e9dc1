"""What predictions saved: annotations read from Label Studio -> measures with intervals -> one page and tables.

Stands beside `worker.segment`, above the libraries and the formats, and must not know the queue, the service or the
laboratory.
"""
