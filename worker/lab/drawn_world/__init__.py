"""The drawn world: a generator of scenes with their truth, and the training of the weights shipped as `MODEL=builtin`.

World, scenes and trials must not depend on models; training must not depend on how its weights are shipped.
"""
