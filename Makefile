# One target for each habit. Every target makes and updates .venv by itself; only python3 is needed.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
# Two at a time, each with one thread of its own, so that they do not wait for one another's.
TWO    := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2
EXTRAS := host,openvino,rtx,coco,sign,model-signing,nvml,history,fleet,mlflow,video,bags,dev

.PHONY: help demo test test-all test-python lint format bench hashes docs notebook pictures site gpu-wheels calibration-wheels gpu-test gpu-bench cpp clean

help:  ## Show the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(STAMP): pyproject.toml constraints.txt
	@echo "setting up $(VENV) (once; a few minutes)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS)]'
	@touch $@

demo: $(STAMP)  ## Ship the Fashion-MNIST example: ends in a verdict and a report
	@$(BIN)/edgeship ship examples/fashion/edgeship.toml; code=$$?; \
	case $$code in \
	0) ;; \
	1) echo "NO-SHIP is an answer, not an error: the report says which rule each candidate fails." ;; \
	3) echo "INCONCLUSIVE is an answer, not an error: a rule could be judged neither way, as when other work disturbs the"; \
	   echo "clock. On a quiet machine, measure anew: $(BIN)/edgeship ship examples/fashion/edgeship.toml --fresh" ;; \
	*) exit $$code ;; \
	esac; \
	echo "To use edgeship in this shell: . $(BIN)/activate"

test: $(STAMP)  ## Fast tests, two at a time
	$(TWO) --dist worksteal

test-all: $(STAMP)  ## Fast and slow tests; those that a neighbour would disturb one at a time
	$(BIN)/python -m compileall -q src  # read by the processes that the tests start
	$(TWO) --dist worksteal
	$(TWO) --dist loadfile --no-loadscope-reorder -m 'slow and not alone and not gpu'
	$(BIN)/python -m pytest -m 'alone and not gpu'

OTHER := tests/unit/decide/test_statistics.py tests/unit/decide/test_remarks.py tests/unit/decide/test_units.py \
	tests/unit/test_text.py tests/unit/test_files.py

test-python:  ## A few fast tests on the base install with another interpreter: make test-python PYTHON=python3.12
	@$(PYTHON) -m venv build/$(notdir $(PYTHON))
	@build/$(notdir $(PYTHON))/bin/python -m pip install --quiet --no-compile --disable-pip-version-check -c constraints.txt \
		-e . pytest hypothesis scipy
	build/$(notdir $(PYTHON))/bin/python -m pytest -q -p no:cacheprovider $(OTHER)

lint: $(STAMP)  ## ruff, mypy --strict, import layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)  ## Format and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(STAMP)  ## Every benchmark that runs on a CPU, both sides in one run
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	$(BIN)/python benchmarks/run.py

hashes: $(STAMP)  ## What `make` installs here, pinned by hash, in build/requirements.txt
	@mkdir -p build
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --dry-run --ignore-installed \
		--report build/report.json -c constraints.txt '.[$(EXTRAS)]'
	$(BIN)/python .ci/hashes.py build/report.json > build/requirements.txt

docs: $(STAMP)  ## Generate docs/reference from the code
	$(BIN)/python docs/generate.py

notebook: $(STAMP)  ## Run the notebook of the documentation again
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[notebook]'
	$(BIN)/python docs/notebook.py

pictures: $(STAMP)  ## The recorded terminal and the report's picture of the documentation (tmux, Chromium)
	$(BIN)/python docs/pictures.py

site: $(STAMP)  ## The documentation as a site with search, in build/site; every link is checked
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	$(BIN)/python -m mkdocs build --strict

gpu-wheels: $(STAMP)  ## Pack what a GPU machine without a registry needs into .wheels (Python 3.12, 9.0)
	rm -rf build/wheels && $(BIN)/python -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 \
		--implementation cp $(foreach n,39 34 31 28 27 24 17,--platform manylinux_2_$(n)_x86_64) \
		--platform manylinux2014_x86_64 -d build/wheels -r benchmarks/gpu_wheels.txt
	$(BIN)/python -m pip wheel --quiet --no-deps -w build/wheels cppimport==26.4.17  # published as source alone
	$(BIN)/python benchmarks/pack_wheels.py build/wheels/*.whl --out .wheels --arch 90 --lean

calibration-wheels: $(STAMP)  ## Pack what calibration's benchmark needs where no registry is reached (Python 3.12)
	rm -rf build/calibration && $(BIN)/python -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 \
		--implementation cp $(foreach n,28 27 17,--platform manylinux_2_$(n)_x86_64) --platform manylinux2014_x86_64 \
		-d build/calibration -r benchmarks/calibration_wheels.txt
	$(BIN)/python benchmarks/pack_wheels.py build/calibration/*.whl --out build/calibration-wheels --part-mib 60

gpu-test:  ## Tests on a machine with a GPU: from a checkout and .wheels, no registry needed
	sh benchmarks/gpu_machine.sh test .wheels build/gpu

gpu-bench:  ## Every GPU figure, both sides in one run, into build/gpu/gpu.json
	LIMIT_S=1800 sh benchmarks/gpu_machine.sh bench .wheels build/gpu

cpp:  ## The C++ example, where TensorRT's and CUDA's headers are installed (CPPFLAGS=-I...)
	$(CXX) -std=c++17 -O2 -Wall -Wextra -Wpedantic -Werror -fsyntax-only -isystem /usr/local/cuda/include $(CPPFLAGS) \
		docs/how-to/cpp/infer.cpp

clean:  ## Remove environments and run folders
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find examples -name edgeship-out -type d -prune -exec rm -rf {} +
