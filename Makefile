# `make demo` and `make test` need nothing but Python 3.11 to 3.13 and a package index.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo ui test check install clean

demo: $(VENV)/installed
	$(BIN)/saint run
	@echo
	@echo "The report is the file named above; open it in a browser. Once more, and all of it is found: $(BIN)/saint run"

ui: $(VENV)/installed-ui
	$(BIN)/saint ui --open

# Two at a time, a file each: files share servers and small worlds among their tests. One hash seed: both must list the
# same tests in the same order, also those whose parameters come from a set.
test: $(VENV)/installed-dev
	PYTHONHASHSEED=0 $(BIN)/python -m pytest -n 2 --dist loadfile

check: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/lint-imports

install: $(VENV)/installed

# Constraints give the versions that the tests were run with; torch is installed first, so that no other package's
# open range makes pip choose a larger build.
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

$(VENV)/installed-ui: $(VENV)/installed
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[ui]'
	@touch $@

clean:
	rm -rf $(VENV) saint-store
