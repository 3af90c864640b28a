# `make demo` and `make test` do everything on a fresh machine with Python >= 3.10.
PYTHON ?= python3
PIP = $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test fuzz check docs bench results clean

demo: VENV = .venv/demo
demo:
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(PIP) -e '.[demo]'
	$(VENV)/bin/python -m calotype.bench.demo --out demo-out

.venv/dev/installed: pyproject.toml constraints.txt
	test -x .venv/dev/bin/python || $(PYTHON) -m venv .venv/dev
	$(PIP) -e '.[dev]'
	touch $@
.venv/dev/installed: VENV = .venv/dev

check: .venv/dev/installed
	.venv/dev/bin/ruff check
	.venv/dev/bin/ruff format --check
	.venv/dev/bin/pyright --pythonpath .venv/dev/bin/python
	.venv/dev/bin/lint-imports --no-cache

test: check docs
	.venv/dev/bin/python -m pytest -n auto --dist worksteal

# For hours: make fuzz MINUTES=60
MINUTES ?= 10
fuzz: .venv/dev/installed
	.venv/dev/bin/python fuzz/mutate.py 100000
	for target in container bundle archive pillow; do .venv/dev/bin/python fuzz/fuzz.py $$target --minutes $(MINUTES) || exit 1; done

docs: .venv/dev/installed
	.venv/dev/bin/mkdocs build --strict --quiet

bench: .venv/dev/installed
	.venv/dev/bin/python -m calotype.bench.speed

# The page of results: make results PICTURES=kodak REFERENCE=reference/kodak
results: .venv/dev/installed
	.venv/dev/bin/calotype bench $(PICTURES) --reference $(REFERENCE) --out bench-out
	mkdir -p docs/plots && cp bench-out/results.md docs/ && cp bench-out/plots/*.svg docs/plots/

clean:
	rm -rf .venv site demo-out bench-out dist
