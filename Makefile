# What a newcomer types. `make demo` and `make test` set everything up by themselves; Python 3.11, git and make are all they need.

PYTHON ?= python3
VENV   ?= .venv
BIN     = $(VENV)/bin
READY   = $(VENV)/.ready

# setuptools warns of every editable installation that a folder called like the package may hide it; what there is to know about that is in the README.
UNWARNED = PYTHONWARNINGS='ignore:Editable installation'

# Tests without a network, on virtual time or on none: half of them for each of two cores, so that what they share is made, and compiled, once. The others start
# processes, which the tests of one file share: two files at once, as they come, for those with the fewest tests are the longest and should not all be left to
# the end.
PURE = $(filter-out tests/client/test_aio.py,$(wildcard tests/gateway/test_app.py tests/gateway/test_fuzz.py tests/model tests/routing tests/machines tests/sim tests/peer tests/client/test_*.py tests/test_*.py))

export OMP_WAIT_POLICY = passive

RUNS ?= 1000000

.PHONY: demo docs test test-slow test-browser attacks fuzz lint setup clean

demo: setup
	$(BIN)/python -P -m swarm.cli.demo

test: setup
	$(BIN)/python -m pytest -n 2 --dist worksteal $(PURE)
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(PURE:%=--ignore=%)

test-slow: setup
	$(BIN)/python -m pytest -m slow --timeout 3600

# What strangers try against real processes, with a table at the end: the better part of an hour, ten thousand honest hops and a thousand deaths being in it.
attacks: setup
	$(BIN)/python -m pytest -m slow --timeout 900 tests/attacks

# Guided by atheris where that is installed (pip install atheris), unguided otherwise.
fuzz: setup
	$(BIN)/python -m tests.fuzz --runs $(RUNS)
	$(BIN)/python -m tests.fuzz_planning

# The swarm view in a real browser, where there is a Chromium.
test-browser: setup
	$(BIN)/python -m pytest -m browser -rs tests/gateway/test_page.py

# The pages of docs/ as a site, in build/site.
docs: setup
	$(BIN)/python -m mkdocs build --strict

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy swarm cli

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("swarm needs Python 3.11 or newer; name one with `make PYTHON=…`" if sys.version_info < (3, 11) else 0)'
	@echo "setting up $(VENV): PyTorch and the rest, a few minutes and about 2 GB the first time"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --upgrade pip
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	@$(UNWARNED) $(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $(READY)

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .hypothesis .ruff_cache .mypy_cache
