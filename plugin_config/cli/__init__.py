"""`zeromask`: the commands, each loaded when it is called. Nothing else of the product may depend on it."""
