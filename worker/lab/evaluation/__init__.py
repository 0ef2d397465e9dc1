"""Quality: data sets and protocols of `zeromask evaluate`.

A protocol must not know how the model, the refiner or the recipe under evaluation works; a data set must not know what
is evaluated on it.
"""
