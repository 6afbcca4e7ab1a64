# make run            set up and train the demo
# make test           set up and run the tests; make test-fast: without the slow ones
# make lint           set up, then style, format and types
# make docs           set up, then build the documentation into site/; a broken link fails
# make test-plugins   set up an environment for Ray and one for Optuna, and run a sweep in each
PYTHON ?= python3
VENV := .venv

run: $(VENV)/installed
	$(VENV)/bin/python run.py model=light_v3 loss=sisdr_mag

test: $(VENV)/installed
	$(VENV)/bin/python -m pytest --numprocesses auto --dist worksteal -rs

test-fast: $(VENV)/installed
	$(VENV)/bin/python -m pytest --numprocesses auto --dist worksteal -rs -m "not slow"

lint: $(VENV)/installed
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy

docs: $(VENV)/installed
	$(VENV)/bin/mkdocs build --strict

test-plugins: $(VENV)-ray/installed $(VENV)-optuna/installed
	$(VENV)-ray/bin/python -m pytest tests/tasks/plugins.py -rs -k ray
	$(VENV)-optuna/bin/python -m pytest tests/tasks/plugins.py -rs -k optuna

$(VENV)/installed: EXTRAS = demo,dev
$(VENV)-ray/installed: EXTRAS = demo,test,ray
$(VENV)-optuna/installed: EXTRAS = demo,test,optuna

$(VENV)/installed $(VENV)-ray/installed $(VENV)-optuna/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --constraint constraints.txt torch
	$(@D)/bin/python -m pip install --quiet --constraint constraints.txt --editable ".[$(EXTRAS)]"
	touch $@

.PHONY: run test test-fast lint docs test-plugins
