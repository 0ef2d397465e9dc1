"""The drawn world: scene generator, training script and the weights shipped as `MODEL=builtin`."""
