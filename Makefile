# make site       build the site and serve it on 127.0.0.1 (SERVE=0 only builds)
# make test       everything CI does: lint, types, all tests
# make check      what to run before a commit: about a minute once installed
# make bench      the timings of benchmarks/README.md
# make mutants    change each word of each entry and see that a test notices
# make fuzz       20,000 hostile inputs with each of three seeds, and the table of benchmarks/README.md
# make grid       every case of the tests that CI samples: behaviour, counts of peft, simulated steps (runs every night)
# make drift      what the newest releases of the libraries have that the files lack (runs every week)
# make pictures   the screenshots in the README
# make clean      remove what the others made, but for the virtual environments

PYTHON ?= python3
VENV   ?= .venv
PORT   ?= 8000
SERVE  ?= 1
JOBS   ?= 2

bin   := $(VENV)/bin
other := $(VENV)-adapters
pip   := $(bin)/python -m pip --disable-pip-version-check install --quiet
tests := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(bin)/pytest -n $(JOBS) --dist loadgroup

# Linters run beside tests, and one environment is installed beside the other.
MAKEFLAGS += --jobs=$(JOBS)

.PHONY: site test suite check quick lint chromium bench mutants fuzz grid drift pictures clean
.DELETE_ON_ERROR:

site: $(VENV)/site.stamp
	$(bin)/peftonomy check
	$(bin)/peftonomy site build --out build/site
	$(bin)/peftonomy cost lora --model llama_2_7b --set r=8
ifneq ($(SERVE),0)
	$(bin)/peftonomy site serve --dir build/site --port $(PORT)
endif

test: lint suite

suite: $(VENV)/dev.stamp $(other)/stamp
	CHROMIUM=$$(.ci/chromium) && export CHROMIUM && ADAPTERS_PYTHON=$(other)/bin/python $(tests)

check: lint quick

quick: $(VENV)/dev.stamp
	$(bin)/peftonomy check
	$(tests) -m "not slow and not browser and not torch"

lint: $(VENV)/dev.stamp
	$(bin)/ruff check
	$(bin)/mypy
	$(bin)/lint-imports --no-logo

bench: $(VENV)/dev.stamp
	OMP_NUM_THREADS=1 $(bin)/python benchmarks/run.py

mutants: $(VENV)/dev.stamp
	OMP_NUM_THREADS=1 $(bin)/python -m tests.mutations

fuzz: $(VENV)/dev.stamp
	OMP_NUM_THREADS=1 $(bin)/python -m tests.fuzz --jobs $(JOBS)

grid: $(VENV)/dev.stamp
	GRID=whole $(tests) tests/behaviour tests/test_oracles_counts.py tests/test_peft_at_random.py tests/test_simulator.py \
	  tests/test_backbones.py tests/test_backbones_selection.py tests/test_engine.py tests/test_engine_memory.py \
	  tests/test_engine_operations.py tests/test_operations.py tests/test_operations_forms.py tests/test_oracles_outputs.py

# Each newest release gets an environment of its own; what they print is compared with the files and the pinned release.
drift: $(VENV)/dev.stamp
	for library in peft adapters; do \
	  $(PYTHON) -m venv --clear build/newest/$$library && \
	  build/newest/$$library/bin/python -m pip --disable-pip-version-check install --quiet $$library torch || exit 1; \
	done
	$(bin)/python .ci/families > build/newest/families
	build/newest/peft/bin/python .ci/families | diff build/newest/families - > build/newest/changed; \
	  peft=$$?; sed 's/^[<>]/model type &/' build/newest/changed; \
	  for library in peft adapters; do \
	    $(bin)/peftonomy drift $$library --python build/newest/$$library/bin/python || peft=1; \
	  done; exit $$peft

pictures: $(VENV)/dev.stamp
	CHROMIUM=$$(.ci/chromium) && export CHROMIUM && $(bin)/python site/pictures/take.py && $(bin)/python site/pictures/previews.py

clean:
	rm -rf build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)*/*' -prune -exec rm -rf {} +

# The stamps make reruns quick; a change of the dependencies installs again.
$(bin)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "peftonomy needs Python 3.11 or newer, and $(PYTHON) is older: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(VENV)/site.stamp: pyproject.toml | $(bin)/python
	$(pip) --editable '.[site]'
	touch $@

$(VENV)/dev.stamp: pyproject.toml | $(bin)/python
	$(pip) --editable '.[dev]'
	touch $@ $(VENV)/site.stamp

# AdapterHub's library is an oracle as well. It pins a transformers that is too old for ours, so it lives by itself, with
# bitsandbytes, which peft would load in every test if it were in ours.
$(other)/stamp: Makefile | $(bin)/python
	$(PYTHON) -m venv $(other)
	$(other)/bin/python -m pip --disable-pip-version-check install --quiet adapters==1.3.0 transformers==4.57.6 \
	  bitsandbytes==0.50.2 torch
	touch $@
