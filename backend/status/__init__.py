"""The status page: what it shows of the projects, how it changes while it is open, and what its buttons do.

It must not know who is let in, or how requests arrive.
"""
