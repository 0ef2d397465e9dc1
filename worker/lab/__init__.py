"""The laboratory: how good and how fast the product is. It stands on all other packages, and none of them imports it.

Its commands are `zeromask evaluate`, `zeromask bench` and modules started by their path.
"""
