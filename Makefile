# make demo   the whole story on embedded data: installs into .venv, runs, writes demo-run/report.html
# make test   the test suite
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-slow lint check catalogue docs lock clean

demo: $(VENV)/.installed
	$(BIN)/ddaudit demo --out demo-run

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n auto --dist worksteal -m "not slow" $(PYTEST_ARGS)

test-slow: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n auto --dist worksteal $(PYTEST_ARGS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# What the registries hold, known without importing them: run after adding, renaming or describing an entry.
catalogue: $(VENV)/.installed
	$(BIN)/python -m ddaudit.catalogue

# The documentation site, in site/. Its generator has an environment of its own: see docs/decisions/008-mkdocs.md.
docs: $(VENV)/.installed $(VENV)-docs/.installed
	$(BIN)/python docs/site/reference.py
	$(VENV)-docs/bin/mkdocs build --strict --quiet

# What .ci/run installs with this version of Python; run in an environment in which everything passes.
lock: $(VENV)/.installed-dev
	$(BIN)/python -c "import sys; print('# Python %d.%d' % sys.version_info[:2])" > ci/constraints.new
	echo "# What .ci/run installs with that Python; others take what pyproject.toml allows. Made by 'make lock'." >> ci/constraints.new
	$(BIN)/python -m pip freeze --exclude-editable --exclude ddaudit >> ci/constraints.new
	mv ci/constraints.new ci/constraints.txt

# Types and the import contract are checked on an installed wheel: attacks/, defenses/ and reports/ only become
# ddaudit.attacks, ddaudit.defenses and ddaudit.reports there.
check: $(VENV)/.installed-dev
	rm -rf build dist
	$(BIN)/python -m build --wheel --outdir dist . > build.log 2>&1 || (cat build.log; false)
	rm -f build.log
	$(BIN)/python -m pip install -q --no-deps --target build/site dist/*.whl
	cd build/site && ../../$(BIN)/python -c "import ddaudit.attacks, ddaudit.defenses, ddaudit.reports, sys; assert 'build/site' in ddaudit.__file__"
	cd build/site && PYTHONPATH=. ../../$(BIN)/lint-imports --config ../../pyproject.toml
	cp -r benchmarks build/site/benchmarks
	cd build/site && ../../$(BIN)/mypy --config-file ../../pyproject.toml -p ddaudit -p benchmarks

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install -q -e .
	touch $@

$(VENV)/.installed-test: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install -q -e ".[test]"
	touch $@ $(VENV)/.installed

$(VENV)/.installed-dev: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install -q -e ".[test,dev]"
	touch $@ $(VENV)/.installed $(VENV)/.installed-test

$(VENV)-docs/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)-docs
	$(VENV)-docs/bin/python -m pip install -q --upgrade pip
	$(VENV)-docs/bin/python -m pip install -q --group docs
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-docs site docs/reference build dist *.egg-info demo-run
