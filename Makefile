# Run `make` for the list of targets.
VENV ?= .venv
PY := $(VENV)/bin/python
FIXTURES := fixtures/real

.PHONY: help demo test test-page screenshots check stress bench bench-plots fuzz vectors wheel clean

help:  ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

SOURCES := $(wildcard distillgan/*.py distillgan/torch/*.py cli/distillgan_cli/*.py)

$(VENV)/installed: pyproject.toml constraints.txt $(SOURCES)
	python3 -m venv $(VENV)
	$(PY) -m pip install --quiet --upgrade "pip>=25.1"
	$(PY) -m pip install --quiet -c constraints.txt torch
	$(PY) -m pip install --quiet -c constraints.txt ".[audio]"
	@touch $@

$(VENV)/developer: pyproject.toml constraints.txt
	python3 -m venv $(VENV)
	$(PY) -m pip install --quiet --upgrade "pip>=25.1"
	$(PY) -m pip install --quiet -c constraints.txt torch
	$(PY) -m pip install --quiet -c constraints.txt -e ".[audio,page]" --group dev
	@touch $@

$(VENV)/benchmarks: $(VENV)/developer
	$(PY) -m pip install --quiet -c constraints.txt --group bench
	@touch $@

$(VENV)/fuzzers: $(VENV)/developer
	$(PY) -m pip install --quiet -c constraints.txt --group fuzz
	@touch $@

demo: $(VENV)/installed  ## pack a real model, look at it, verify it, find a flipped bit
	@PATH="$(CURDIR)/$(VENV)/bin:$$PATH" sh fixtures/demo.sh

test: $(VENV)/developer  ## run the tests
	$(PY) -m pytest -n 2 -q -m "not stress" --ignore tests/page --ignore tests/packaging

MARKS ?=
test-page: $(VENV)/developer  ## test the library page in a browser (Debian's chromium)
	$(PY) -m pytest -q tests/page -m "$(MARKS)"

screenshots: $(VENV)/developer  ## make the README's pictures anew
	$(PY) tests/page/screenshots.py

stress: $(VENV)/developer  ## run the slow tests as well
	$(PY) -m pytest -q -m stress --ignore tests/page

check: $(VENV)/developer  ## lint, type-check, look into the wheel
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(PY) -m pytest -q tests/packaging

bench: $(VENV)/benchmarks  ## measure against floors and peers, as ratios
	$(PY) tests/benchmarks/bench.py

bench-plots: $(VENV)/benchmarks  ## draw how cost grows, as SVG
	$(PY) tests/benchmarks/plots.py

SECONDS ?= 60
fuzz: $(VENV)/fuzzers  ## fuzz every parser for a bounded time (SECONDS=60)
	$(PY) fuzz/run.py --seconds $(SECONDS)

vectors: $(VENV)/developer  ## write the conformance vectors anew
	$(PY) fixtures/make_vectors.py

wheel: $(VENV)/developer  ## build the wheel
	$(PY) -m build --wheel

clean:  ## remove what was built
	rm -rf $(VENV) dist build demo .pytest_cache .mypy_cache .ruff_cache
