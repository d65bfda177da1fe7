# `make run` installs and runs the whole workflow; `make help` lists the other commands.
PYTHON ?= python3
BIN := .venv/bin
SNAKEMAKE := $(BIN)/snakemake

.PHONY: run test test-slurm test-wheel test-stores lint docs help clean

help:
	@echo "make run    install into .venv, run the whole workflow on the embedded data, say where the report is"
	@echo "make test   install, then run every test"
	@echo "make test-slurm   install, then run the workflow on a Slurm of one node (root; Debian's slurm-wlm and munge)"
	@echo "make test-wheel   install, build the wheel, and run the README's library section with its few dependencies only"
	@echo "make test-stores   install, then test shared stores on servers on the loopback interface (S3, SFTP)"
	@echo "make lint   install, then check style, format, types and the workflow's own lint"
	@echo "make docs   install, then build the documentation site, build/docs/index.html"
	@echo "make clean  remove .venv (results stay)"

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "Python 3.11 or later is needed: make run PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[workflow,laplace,onnx,slurm,docs,dev]'
	touch $@

run: .venv/.installed
	$(SNAKEMAKE) --cores all
	$(SNAKEMAKE) --report results/report.html > results/report.log 2>&1
	@echo "Findings, in one page: results/latest/report/pages/report.html   With the workflow: results/report.html"

test: .venv/.installed
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder $(OPTIONS)

test-slurm: .venv/.installed
	$(BIN)/python -m pytest -m slurm -rs tests/test_slurm.py

# A separate environment, used from another folder, so that nothing of the checkout can be imported.
WHEEL := .venv/wheel
test-wheel: .venv/.installed
	rm -rf build/lib build/bdist.* $(WHEEL)
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir $(WHEEL) .
	$(PYTHON) -m venv $(WHEEL)/alone
	$(WHEEL)/alone/bin/pip install --quiet --constraint constraints.txt $(WHEEL)/dwp-*.whl
	cd / && $(CURDIR)/$(WHEEL)/alone/bin/python -I $(CURDIR)/tests/library_alone.py $(CURDIR)/README.md

# s3fs and moto need other releases of packages than constraints.txt has: an environment over the first one.
STORES := .venv/stores
test-stores: .venv/.installed
	$(PYTHON) -m venv $(STORES)
	$(STORES)/bin/pip install --quiet 'moto[server]>=5' 's3fs>=2024.6' 'paramiko>=3'
	echo "import site; site.addsitedir('$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')')" \
		> "$$($(STORES)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/over.pth"
	$(STORES)/bin/python -m pytest -rs tests/test_shared_store_servers.py

lint: .venv/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/snakefmt --check Snakefile workflow
	$(SNAKEMAKE) --lint

# Every warning is an error; -E: pages that autodoc makes do not depend on the files of docs/ alone.
docs: .venv/.installed
	$(BIN)/python -m sphinx -E -W --keep-going --quiet docs build/docs
	@echo "The site: build/docs/index.html"

clean:
	rm -rf .venv
