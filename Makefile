# smtp2cf: every command a developer or an operator of a checkout needs. `make help` lists them.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
SET_UP := $(VENV)/.set-up
TESTS  ?= tests

.DEFAULT_GOAL := help
.PHONY: help run test check audit fuzz bench attack lock config man manifests dist packages sbom deb clean

help:  ## this list
	@grep -hE '^[a-z.]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

$(SET_UP): requirements/dev.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps --editable .
	@touch $@

run: $(SET_UP)  ## start the bridge with its sandbox, ready for mail, no account needed
	@$(BIN)/smtp2cf serve --sandbox

test: $(SET_UP)  ## the tests (TESTS=path/to/some for fewer, FAST=1 to leave out the slow ones)
	$(COMPILED) $(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup $(HANGS) $(if $(FAST),-m 'not slow') $(TESTS)

# Many tests wait for processes and for the network: two for each core keep all cores busy.
WORKERS ?= $(shell echo $$((2 * $$(nproc 2>/dev/null || echo 2))))
# Hundreds of processes start here, and would compile the same again.
COMPILED := env -u PYTHONDONTWRITEBYTECODE

# A test that hangs is named, with every thread's stack, and ends its worker.
HANGS := -o faulthandler_timeout=600 -o faulthandler_exit_on_timeout=true

check: $(SET_UP)  ## lint, types, the rooms' dependencies, the examples and the schema in step with the settings
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	@for file in config.example.env config.example.toml smtp2cf.schema.json; do \
		kind=$$(expr $$file : '.*[.]\(env\|toml\|schema\)'); \
		$(BIN)/python -m smtp2cf.settings.example $$kind | diff -u $$file - \
		|| { echo "$$file is out of step: run 'make config'"; exit 1; }; done
	@there=$$(mktemp -d) && trap 'rm -r "$$there"' EXIT && $(BIN)/python deploy/generate.py "$$there" \
		&& for room in man completion; do diff -ru deploy/$$room "$$there/$$room" \
		|| { echo "deploy/$$room is out of step: run 'make man'"; exit 1; }; done

audit: $(VENV)-audit/.set-up  ## known vulnerabilities of every pinned dependency, where PyPI's database can be had
	@$(VENV)-audit/bin/python requirements/audit.py

$(VENV)-audit/.set-up: requirements/audit.txt
	$(PYTHON) -m venv $(VENV)-audit
	$(VENV)-audit/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements/audit.txt
	@touch $@

fuzz: $(VENV)/.fuzz  ## feed the parsers with what nobody wrote, and break the world in the model (TARGET=path for one, SECONDS=60 for each)
	$(BIN)/python -m fuzz --seconds $(or $(SECONDS),60) $(TARGET)

$(VENV)/.fuzz: $(SET_UP) requirements/fuzz.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements/fuzz.txt
	@touch $@

$(VENV)/.deploy: $(SET_UP) requirements/deploy.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements/deploy.txt
	@touch $@

bench: $(SET_UP)  ## throughput beside what one would use instead; needs Debian's postfix, nginx and nodejs
	$(BIN)/python -m benchmarks

sendmail.pyz: $(wildcard smtp2cf/sendmail/*.py) smtp2cf/cli/install_sendmail.py  ## sendmail in one file, for a host that has Python and nothing else
	$(PYTHON) -m smtp2cf.cli.install_sendmail $@

config: $(SET_UP)  ## write config.example.env, config.example.toml and its schema from the settings
	$(BIN)/python -m smtp2cf.settings.example env > config.example.env
	$(BIN)/python -m smtp2cf.settings.example toml > config.example.toml
	$(BIN)/python -m smtp2cf.settings.example schema > smtp2cf.schema.json

man: $(SET_UP)  ## write the man pages and the shells' completion from --help, the examples and docs/sendmail.md
	$(BIN)/python deploy/generate.py deploy

manifests: $(VENV)/.deploy  ## render the Helm chart into deploy/kubernetes
	$(BIN)/python deploy/render.py deploy/kubernetes 2>/dev/null

dist: packages  ## build the sdist and the wheel, and try the wheel in empty environments (PYTHONS="python3.12 ...")
	$(BIN)/python deploy/package.py try dist/*.whl $(PYTHONS)

packages: $(VENV)/.deploy
	rm -rf dist build/sdist
	$(BIN)/hatchling build --target sdist
	mkdir -p build/sdist && tar -xzf dist/*.tar.gz -C build/sdist --strip-components 1
	cd build/sdist && $(abspath $(BIN))/hatchling build --target wheel --directory $(CURDIR)/dist
	$(BIN)/twine check --strict dist/*

PYTHONS ?= $(PYTHON)

deb: packages  ## Debian's packages smtp2cf and smtp2cf-mta in dist/, for this host's python3; needs debhelper
	rm -rf build/deb && mkdir -p build/deb/smtp2cf/dist
	tar -xzf dist/*.tar.gz -C build/deb/smtp2cf --strip-components 1
	cp dist/*.whl build/deb/smtp2cf/dist/
	cd build/deb/smtp2cf && PIP="$(abspath $(BIN))/python -m pip" dpkg-buildpackage --build=binary --unsigned-changes
	mv build/deb/*.deb dist/

sbom: dist  ## what is installed with it, in dist/smtp2cf.cdx.json (CycloneDX)
	$(BIN)/python deploy/package.py sbom dist/*.whl dist/smtp2cf.cdx.json

attack: $(SET_UP)  ## what attacks cost a bridge and its other clients; needs openssl
	$(BIN)/python -m benchmarks.attacks

lock: $(SET_UP)  ## pin the newest releases that pyproject.toml admits, with their hashes
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(LOCK) pyproject.toml --extra postgres --output-file requirements/image.txt
	$(LOCK) requirements/build.in --output-file requirements/build.txt
	$(LOCK) requirements/audit.in --output-file requirements/audit.txt
	$(LOCK) requirements/fuzz.in --output-file requirements/fuzz.txt
	$(LOCK) pyproject.toml requirements/dev.in --extra postgres --output-file requirements/dev.txt
	$(LOCK) requirements/deploy.in --output-file requirements/deploy.txt

LOCK := $(BIN)/uv --quiet pip compile --universal --python-version 3.11 --generate-hashes --upgrade --no-annotate \
	--no-emit-index-url --no-emit-find-links --custom-compile-command 'make lock'

clean:  ## remove what the commands above made
	rm -rf $(VENV) $(VENV)-audit .fuzz build dist sendmail.pyz .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
