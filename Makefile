# `make demo` and `make test` need Python 3.11 or later and do all the set-up themselves, in .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := benchmarks dexar_fast tests
# Tests share the cores; each runs on one.
PARALLEL := --numprocesses auto --dist worksteal
# Further arguments: make test ARGS="-k cli", make demo ARGS="--seed 3".
ARGS ?=

export PIP_DISABLE_PIP_VERSION_CHECK := 1
PIP_INSTALL = $(BIN)/python -m pip install -qq --progress-bar off --log $(VENV)/pip.log --constraint constraints.txt
SET_UP_FAILED = (echo "The set-up failed; $(VENV)/pip.log has the details."; exit 1)

.DEFAULT_GOAL := help
# Two set-ups at once would install into one environment.
.NOTPARALLEL:
.PHONY: help demo models test test-oldest test-newest test-torchvision test-peers test-fiftyone lint format bench evaluation gpu docs notebooks dist smoke clean

help:
	@echo "make demo    explain an image with the embedded model and write a report"
	@echo "make models  train the other small models, in models/ (an hour or two each; what was interrupted goes on): ARGS=reader for one"
	@echo "make test    run all tests; skipped ones are named with the reason"
	@echo "make test-oldest  run the tests of models on the oldest transformers that is supported; make test-newest: the newest"
	@echo "make test-torchvision  run the tests of prompts and pixels with the image processors that users of torchvision get"
	@echo "make test-peers  run the tests of adapters with the tools that the test environment has no room for"
	@echo "make test-fiftyone  the same for FiftyOne, which brings half a gigabyte and a database"
	@echo "make lint    check style and types"
	@echo "make format  rewrite the sources in the project's style"
	@echo "make bench   measure, write benchmarks/results/ and docs/benchmarks.md; one part: ARGS=ops, ARGS=end-to-end, ARGS=batches"
	@echo "make evaluation  run all of docs/evaluation.md and write its tables; from the kept results: ARGS=tables"
	@echo "make gpu     check and measure on this machine's GPU, offline, with the torch that PYTHON has; one part: ARGS=tests"
	@echo "make docs    build the documentation in build/docs, warnings are errors; make notebooks: run those of examples/ anew"
	@echo "make dist    build sdist and wheels in dist/ (docs/releasing.md); make smoke: also install each and explain a picture"
	@echo "make clean   remove everything that make made"

demo: $(VENV)/.has-base
	@$(BIN)/dexar-fast demo $(ARGS)

models: $(VENV)/.has-base
	@$(BIN)/python -m dexar_fast.demo.make $(ARGS)

test: $(VENV)/.has-test
	@$(BIN)/python -m pytest $(PARALLEL) $(ARGS)

test-oldest test-newest: test-%: .venv-%/.created
	@.venv-$*/bin/python -m pytest $(PARALLEL) tests/families tests/test_exactness.py tests/test_golden.py tests/test_wrapped_models.py $(ARGS)

# What decides which pixels a token has seen, and the ids.
test-torchvision: .venv-torchvision/.created
	@.venv-torchvision/bin/python -m pytest $(PARALLEL) -p tests.torchvision_without_operators \
		$(foreach TEST,lit_region_lands_where_it_is whole_way_from_pictures picture_of_another_size_is_named very_thin_picture, \
			tests/families/test_families.py::test_$(TEST)) \
		tests/families/test_settings.py tests/families/test_prompts.py tests/families/test_tilings.py tests/test_loading.py $(ARGS)

test-peers: .venv-peers/.created
	@.venv-peers/bin/python -m pytest tests/test_adapters.py tests/test_adapters_stores.py "tests/test_snippets.py::test_python_runs[docs/adapters.md]" $(ARGS)

test-fiftyone: .venv-fiftyone/.created
	@.venv-fiftyone/bin/python -m pytest tests/test_adapters_stores.py -k fiftyone $(ARGS)

lint: $(VENV)/.has-lint
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet . || (echo "Not in the project's format; run: make format"; exit 1)
	@$(BIN)/mypy $(SOURCES)

format: $(VENV)/.has-lint
	@$(BIN)/ruff check --quiet --fix . || true
	@$(BIN)/ruff format --quiet .

bench: $(VENV)/.has-bench
	@$(BIN)/python -m benchmarks.run $(ARGS)

evaluation: $(VENV)/.has-evaluate
	@$(BIN)/python -m benchmarks.evaluation $(ARGS)

# Outside .venv: GPU machines often have no network and a torch that must stay as it is.
gpu:
	@PYTHON="$(PYTHON)" bash benchmarks/gpu.sh $(ARGS)

docs: $(VENV)/.has-docs
	@$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going -b html docs build/docs
	@echo build/docs/index.html

notebooks: $(VENV)/.has-test
	@$(BIN)/python -m tests.notebooks

dist: $(VENV)/.has-release
	@PYTHON="$(BIN)/python" bash .ci/dist

smoke: dist
	@PYTHON="$(BIN)/python" bash .ci/smoke

clean:
	@rm -rf $(VENV) .venv-oldest .venv-newest .venv-torchvision .venv-peers .venv-fiftyone build dist *.egg-info .hypothesis .benchmarks .mypy_cache .pytest_cache .ruff_cache dexar-fast-report dexar-fast-evaluation
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# .has-base is the package alone, .has-NAME the package with that extra. Each is redone when what it installs changes.
$(VENV)/.has-%: pyproject.toml setup.py constraints.txt $(wildcard csrc/*.cpp csrc/*.h) | $(VENV)/.created
	@echo "Setting up $(VENV) for: $* (once; the first time takes some minutes)"
	@$(PIP_INSTALL) --no-build-isolation --editable ".$(if $(filter base,$*),,[$*])" || $(SET_UP_FAILED)
	@touch $@

# Everything that constraints-NAME.txt does not name is that of $(VENV).
.venv-%/.created: constraints-%.txt $(VENV)/.has-test
	@rm -rf .venv-$*
	@$(BIN)/python -m venv .venv-$*
	@$(BIN)/python -c "import site; print(f'import site; site.addsitedir({site.getsitepackages()[0]!r})')" \
		> "$$(.venv-$*/bin/python -c 'import site; print(site.getsitepackages()[0])')/others.pth"
	@.venv-$*/bin/python -m pip install -qq --progress-bar off --log .venv-$*/pip.log --no-deps \
		--requirement constraints-$*.txt || (echo "The set-up failed; see .venv-$*/pip.log"; exit 1)
	@touch $@

$(VENV)/.created:
	@$(PYTHON) -m venv $(VENV)
	@$(PIP_INSTALL) setuptools || $(SET_UP_FAILED)
	@touch $@
