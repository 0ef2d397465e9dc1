"""Versions learned from a project's corrections: kept on disk, served, rolled back.

Nothing here knows tensors, terminals, or how anything is learned.
"""
