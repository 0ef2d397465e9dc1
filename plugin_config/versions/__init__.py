"""Versions learned from a project's corrections: kept on disk, served, rolled back.

It must not depend on tensors, on how a version is learned, or on how it is shown to people.
"""
