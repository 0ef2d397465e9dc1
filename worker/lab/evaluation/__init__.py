"""Quality: data sets and protocols of `zeromask evaluate`.

A protocol must not depend on how the evaluated model, refiner or recipe works, and a data set must not depend on what
is evaluated on it.
"""
