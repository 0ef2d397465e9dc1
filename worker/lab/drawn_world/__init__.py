"""The drawn world: scene generator, and the training of the weights shipped as `MODEL=builtin`."""
