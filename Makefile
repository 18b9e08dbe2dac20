# Every habit is one word. Each target builds .venv when it is missing and rebuilds the
# extension when its sources changed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# setuptools' advice about editable installs is hidden; errors are shown.
PIP := PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --disable-pip-version-check
SOURCES := setup.py pyproject.toml rmsprop_fast/_version.py $(wildcard rmsprop_fast/*.p[xy][dx] \
    rmsprop_fast/cpu/*.p[xy][dxi] rmsprop_fast/cpu/*.h rmsprop_fast/include/rmsprop_fast/*.h \
    rmsprop_fast/estimators/*.p[xy][dxi] rmsprop_fast/gpu/*.p[xy][dx] rmsprop_fast/gpu/*.h)

# Named one by one: with the name of the package, stubtest would import the loops of every
# instruction set.
STUBBED = $(subst /,.,$(basename $(shell find rmsprop_fast -name '*.pyi')))

# C and CUDA that clang-format checks. Not in the list: limits.c and spans.c, whose loops
# are macros, and files that nobody has formatted yet.
C_FILES = benchmarks/fused.c benchmarks/native.c docs/examples/c/train.c \
    docs/examples/cpp/trigrams.cpp rmsprop_fast/cpu/_platform.h

.PHONY: help build demo test lint clang-format schemas hooks format bench docs wheel clean

help:
	@echo "make demo    train on real data: place names -> country"
	@echo "make test    build and run the whole test suite"
	@echo "make lint    ruff, cython-lint, clang-format, mypy, stubtest, schemas"
	@echo "make format  apply ruff and clang-format"
	@echo "make hooks   check every commit of this clone with pre-commit"
	@echo "make docs    build docs/_build/html"
	@echo "make bench   measure against peers and against memory"
	@echo "make wheel   build sdist and wheel into dist/, libgomp included"
	@echo "make clean   remove everything that was built"

# --- Environment and extension ----------------------------------------------------------

$(VENV)/.dev: pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and f"rmsprop_fast needs Python >= 3.11, {sys.executable} is {v[0]}.{v[1]}")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) 'setuptools>=77' 'Cython>=3.1' 'numpy>=2.0' build
	@touch $@

# In place, so that edited Python is live; setup.py recompiles only what changed.
$(VENV)/.built: $(VENV)/.dev $(SOURCES)
	$(PIP) --no-build-isolation --no-deps --editable .
	@touch $@

$(VENV)/.%: $(VENV)/.built
	$(PIP) --no-build-isolation --editable '.[$*]'
	@touch $@

build: $(VENV)/.built

# --- Habits -----------------------------------------------------------------------------

demo: $(VENV)/.demo
	$(BIN)/python -m rmsprop_fast.demo --retrain "Llanfair" "Kyoto" "Saint-Pierre"

test: $(VENV)/.test
	$(BIN)/python -m pytest --cov --cov-report=term

lint: clang-format schemas $(VENV)/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	PATH="$(CURDIR)/$(BIN):$$PATH" cython-lint rmsprop_fast
	$(BIN)/mypy
	$(BIN)/stubtest --mypy-config-file pyproject.toml \
	    --allowlist tests/data/stubtest_allowlist.txt $(STUBBED)

clang-format: $(VENV)/.lint
	$(BIN)/clang-format --dry-run -Werror $(C_FILES)

schemas: $(VENV)/.lint
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-issue-config .github/ISSUE_TEMPLATE/config.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-issue-forms \
	    $(filter-out %/config.yml,$(wildcard .github/ISSUE_TEMPLATE/*.yml))

hooks: $(VENV)/.lint
	$(BIN)/pre-commit install

format: $(VENV)/.lint
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(C_FILES)

docs: $(VENV)/.docs
	$(BIN)/sphinx-build -W --keep-going -b html docs docs/_build/html

bench: $(VENV)/.bench
	$(BIN)/python -m benchmarks

# setuptools would put into the sdist whatever an older egg-info lists. On Linux the
# finished wheel is the one that carries libgomp.
wheel: $(VENV)/.wheel
	rm -rf dist *.egg-info
	$(BIN)/python -m build
ifeq ($(shell uname -s),Linux)
	PATH="$(CURDIR)/$(BIN):$$PATH" auditwheel repair --wheel-dir dist dist/*-linux_*.whl
	rm dist/*-linux_*.whl
endif
	@ls dist

clean:
	rm -rf $(VENV) build dist wheelhouse docs/_build docs/generated demo-output
	rm -rf *.egg-info .coverage .hypothesis .pytest_cache .mypy_cache .ruff_cache
	find rmsprop_fast -name '*.so' -delete
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
