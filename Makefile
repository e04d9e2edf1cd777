# make run    everything from a clean clone: install, start, load a sample, serve until Ctrl-C
# make test   every test; what cannot run on this machine is said in the last lines
# make lint   the style alone
# make chaos  ten minutes of faults at random (CHAOS="--minutes 60 --seed 1")
# make fuzz   a minute of damaged files for each reader (FUZZ="--seconds 600 --reader json xml")
# make bench  measured side by side with psql \copy
# make bench-archive  the same for exporting a year and restoring it
# make bench-partitions  the same for COPY into tables that are divided by years

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: run test lint chaos fuzz bench bench-archive bench-partitions clean help

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

# Two sets: what running needs, and what testing needs besides.
$(VENV)/.installed-to-run: EXTRAS := embedded
$(VENV)/.installed-to-test: EXTRAS := embedded,server,dev
$(VENV)/.installed-to-run $(VENV)/.installed-to-test: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=python3.11 ...")'
	@echo 'Installing into $(VENV) (the first time takes a minute or two) ...'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --use-pep517 --constraint constraints.txt --editable '.[$(EXTRAS)]'
	@touch $@

run: $(VENV)/.installed-to-run
	@$(BIN)/ledger up --demo

test: $(VENV)/.installed-to-test
	@$(BIN)/python -m pytest --numprocesses 4 --dist loadfile --no-loadscope-reorder

lint: $(VENV)/.installed-to-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

chaos: $(VENV)/.installed-to-test
	@$(BIN)/python -m tests.faults.chaos $(CHAOS)

fuzz: $(VENV)/.installed-to-test
	@$(BIN)/python -m tests.fuzz $(FUZZ)

bench: $(VENV)/.installed-to-test
	$(BIN)/python -m bench.ingest

bench-archive: $(VENV)/.installed-to-test
	$(BIN)/python -m bench.archive $(BENCH)

bench-partitions: $(VENV)/.installed-to-test
	$(BIN)/python -m bench.partitions $(BENCH)

clean:
	rm -rf $(VENV) build dist
