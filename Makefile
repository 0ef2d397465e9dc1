# `make demo` shows the product, `make test` runs its tests, `make faults` breaks it, `make attack`
# attacks it, `make sources` fetches images from everywhere, `make fuzz` feeds it malformed input, `make papers` measures
# the papers' rows. Each sets up all it needs by itself.
PYTHON ?= python3
CHECK ?=
JSON ?=
SEED ?=
ONLY ?=
export CHECK JSON PORT SEED

.PHONY: demo test lint faults attack sources fuzz papers browser environments clean

demo: environments  ## A real Label Studio with masks in it; CHECK=1 verifies and prints one JSON line
	@.venv/bin/python -m plugin_config.demo

test: environments  ## Lint, types, then every test, on a real Redis and a real Label Studio
	@.venv/bin/python -m ruff check .
	@.venv/bin/python -m tests

lint: environments  ## ruff and mypy alone
	@.venv/bin/python -m ruff check .
	@.venv/bin/python -m mypy

faults: environments  ## Break everything around the product and count what is lost; JSON=1 prints one JSON line
	@.venv/bin/python -m tests.faults

attack: environments  ## Attack the product from every side and see whether it holds; JSON=1 prints one JSON line
	@.venv/bin/python -m tests.attack

sources: environments  ## Fetch images from every source, with every token, by every way; JSON=1 prints one JSON line
	@.venv/bin/python -m tests.sources

fuzz: environments  ## Thousands of malformed inputs of every kind; JSON=1 prints one JSON line, SEED=n tries others
	@.venv/bin/python -m tests.fuzz

papers: environments  ## Train and judge the rows of docs/research/papers.md; ONLY=lseg,sazs,zegclip,pading, JSON=1
	@.venv/bin/python -m worker.lab.papers $(if $(ONLY),--only $(ONLY)) $(if $(JSON),--json)

browser: environments  ## Each kind of region seen in a real browser; JSON=1 prints one JSON line
	@.venv/bin/python -m tests.browser $(if $(JSON),--json)

environments:
	@$(PYTHON) plugin_config/local/environments.py project label-studio

clean:  ## Forget the demo's data and the clone's environment; what `zeromask up` learned, and shared libraries, stay
	rm -rf .zeromask/demo .zeromask/check .venv
