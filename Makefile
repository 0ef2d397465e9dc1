# Two commands: `make demo` shows the product, `make test` runs its tests. Each sets up all it needs by itself.
PYTHON ?= python3
CHECK ?=
export CHECK PORT

.PHONY: demo test lint environments clean

demo: environments  ## A real Label Studio with masks in it; CHECK=1 verifies and prints one JSON line
	@.venv/bin/python -m plugin_config.demo

test: environments  ## Lint, types, then every test, on a real Redis and a real Label Studio
	@.venv/bin/python -m ruff check .
	@.venv/bin/python -m mypy
	@.venv/bin/python -m pytest

lint: environments  ## ruff and mypy alone
	@.venv/bin/python -m ruff check .
	@.venv/bin/python -m mypy

environments:
	@$(PYTHON) plugin_config/environments.py project label-studio

clean:  ## Forget the demo's data and the clone's environment; the shared libraries stay
	rm -rf .zeromask .venv
