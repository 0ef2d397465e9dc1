"""The drawn world: a generator of scenes with their truth, and the training of the weights shipped as `MODEL=builtin`.

World, scenes and trials must not know about models, and training must not know how its weights are shipped.
"""
