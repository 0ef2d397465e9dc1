"""Data sets, metrics and protocols: how good the masks are, measured."""
