# make run   set up and train the demo        make test   set up and run the tests
PYTHON ?= python3
VENV := .venv

run: $(VENV)/installed
	$(VENV)/bin/python run.py model=light_v3 loss=sisdr_mag

test: $(VENV)/installed
	$(VENV)/bin/python -m pytest --numprocesses auto --dist worksteal

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt torch
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt --editable ".[demo,dev]"
	touch $@

.PHONY: run test
