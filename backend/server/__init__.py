"""The HTTP server: Waitress, extended so that clients that are slow or never finish a request cannot hold up others.

It must not know what the routes do.
"""
