"""An adapter that `zeromask train` wrote, offered to a project in a real Label Studio: the round, and its figures."""
