"""The GPU half: turns tasks and a vocabulary into masks. Never imports Flask, label_studio_ml or `backend`."""
