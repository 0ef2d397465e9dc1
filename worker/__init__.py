"""The GPU half: turns tasks and a vocabulary into masks. Never imports a web framework, label_studio_ml or `backend`."""
