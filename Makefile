# make demo     train the default model in a fresh virtual environment
# make test     ruff, pyright and every test (PYTHON=python3.12 VENV=.venv312 for another Python)
# make sanitize the C++ tests of the kernels under the sanitizers
# make bench    time the kernels on this machine
# make docs     the documentation as a site, in build/site
# make format   what ruff can mend by itself
# make clean    remove everything that make made

PYTHON ?= python3
VENV ?= .venv
# Two processes: most of the time goes into compiling, one program after another.
# Tests that share programs name a group.
PYTEST_ARGS ?= -n 2 --dist loadgroup
# Those marked slow too; MARKS="not slow" leaves them out.
MARKS ?= slow or not slow

BIN := $(VENV)/bin
LIBRARY := kernels/cpu/libfastscan_cpu.so
# What a new install is needed for; Python sources are installed as links.
BUILD_INPUTS := pyproject.toml setup.py CMakeLists.txt \
	$(shell find kernels -name '*.cc' -o -name '*.h') $(if $(wildcard $(LIBRARY)),,FORCE)

# Here a build that fails is an error; `pip install fastscan` would go on without the library.
export FASTSCAN_REQUIRE_NATIVE = 1

.PHONY: demo test lint pytest sanitize bench docs format clean

demo: $(VENV)/.installed-demo
	$(BIN)/fastscan train

test: lint pytest

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

pytest: $(VENV)/.installed-test
	$(BIN)/pytest -m "$(MARKS)" $(PYTEST_ARGS)

sanitize: build/sanitize-address,undefined build/sanitize-thread

build/sanitize-%: FORCE $(VENV)/.installed-test
	$(BIN)/cmake --fresh -S . -B $@ -G Ninja -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN)/ninja) \
		-DFASTSCAN_TESTS=ON "-DFASTSCAN_SANITIZE=$*"
	$(BIN)/cmake --build $@
	$(BIN)/ctest --test-dir $@ --output-on-failure

bench: $(VENV)/.installed-test
	for family in linear matrix selective attention; do $(BIN)/fastscan bench $$family || exit 1; done

docs: $(VENV)/.installed-docs
	rm -rf build/pages && mkdir -p build/pages
	tar cf - README.md CHANGELOG.md CONTRIBUTING.md LICENSE docs kernels/README.md bench/README.md \
		bench/results | tar xf - -C build/pages
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

format: $(VENV)/.installed-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist *.egg-info
	rm -f $(LIBRARY) kernels/cpu/build_error.txt

$(BIN)/python:
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(VENV)/.installed-demo: $(BIN)/python $(BUILD_INPUTS)
	$(BIN)/python -m pip install -e '.[train]'
	touch $@

$(VENV)/.installed-test: $(BIN)/python $(BUILD_INPUTS)
	$(BIN)/python -m pip install -e '.[train,bench,test,gpu-test,dropin]'
	# Lowering for CUDA takes the plugin, 7 MB; the 120 MB that it depends on are for running.
	if $(BIN)/python -m pip show --quiet jax-triton; then \
		version=$$($(BIN)/python -c 'import jaxlib; print(jaxlib.__version__)') && \
		$(BIN)/python -m pip install --no-deps jax-cuda13-plugin==$$version; fi
	# It asks for PyTorch, for data sets that no test reads; on 3.11 it is a syntax error.
	if $(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 12))'; then \
		$(BIN)/python -m pip install --no-deps rnn-jax==0.0.2; \
	fi
	touch $@ $(VENV)/.installed-demo

# Apart from the package: the sources are read, not imported.
$(VENV)/.installed-docs: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install 'mkdocs-material>=9.5' 'mkdocstrings[python]>=0.27'
	touch $@

FORCE:
