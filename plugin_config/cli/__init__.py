"""`zeromask`: the commands, each loaded when it is called."""
