# One virtual environment for everything: .venv in this checkout. CI installs the exact versions of constraints.txt.
PYTHON ?= python3.11
BIN := .venv/bin
INSTALLED := .venv/.installed
DEMO ?= workspace

.PHONY: app test lint bench docs gpu soak clean

app: $(INSTALLED)
	$(BIN)/sslviz app --demo --workspace $(DEMO)

test: $(INSTALLED) lint chromium
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not gpu and not soak"

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(INSTALLED)
	$(BIN)/python -m benchmarks.run

docs: $(INSTALLED)
	$(BIN)/python -m benchmarks.mending

soak: $(INSTALLED)
	$(BIN)/pytest -m soak -s

gpu: $(INSTALLED)
	PYTEST_ADDOPTS="-m gpu" $(BIN)/pytest

$(INSTALLED): requirements.txt requirements-dev.txt constraints.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv || python3 -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

# Chromium for the browser tests: found, else installed as root, else one line that says how.
.PHONY: chromium
chromium:
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null \
	|| { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && apt-get install -y -qq chromium >/dev/null; } \
	|| { echo "browser tests need Chromium: sudo apt-get install chromium"; [ "$$CI" != true ]; }

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
