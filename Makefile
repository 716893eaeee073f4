# make demo    set up, then the whole line on real data (set-up 8 minutes once, demo 1)
# make test    set up, then all quick tests (about 11 minutes)
# make package    what a cluster needs, in dist/: docs/cluster.md
# make lint types fmt    style and types;  make clean    all that these made
PYTHON ?= python3
VENV   ?= .venv
# The built Horovod wheel is kept here, outside the checkout, for the next clone.
WHEELS ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/millstream/wheels

bin := $(VENV)/bin
raw := data/raw
recipe := setup.py constraints.txt tools/build_horovod.sh tools/horovod_build.py tools/check_machine.sh \
	tools/make_classes.py
digest := $(shell cat $(recipe) 2>/dev/null | sha256sum | cut -c1-12)
stamp := $(VENV)/.millstream-$(digest)
# What only tests, benchmarks, style and types need, on top.
dev := $(VENV)/.millstream-dev-$(digest)
install := $(bin)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: help setup demo test test-slow test-all package digits petastorm-tests lint types fmt clean \
	bench-etl bench-nights bench-stream bench-train bench-quality bench-recovery bench-samplers bench-score bench-serve \
	bench-search-quality bench-limits bench-slices bench-tables bench-table-quality bench-tune
help:
	@sed -n 's/^# //p' Makefile | head -4

setup: $(stamp)

$(stamp):
	@tools/check_machine.sh $(PYTHON)
	@echo "Setting up $(VENV): about 4 minutes, and 4 more where Horovod is not built yet."
	$(PYTHON) -m venv $(VENV)
	$(install) 'setuptools<81' wheel packaging numpy torch cloudpickle psutil pyyaml cffi
	tools/build_horovod.sh $(bin)/python $(WHEELS) > $(VENV)/horovod-wheel
	$(install) --no-build-isolation "$$(cat $(VENV)/horovod-wheel)" -e '.[demo,gcs,hdfs,horovod,onnx,s3,serve,tune]'
	$(bin)/python -m pip check
	$(bin)/python -m tools.make_classes
	@rm -f $(VENV)/.millstream-* && touch $(stamp)

$(dev): $(stamp)
	@echo "Adding what tests, style and types need: about a minute."
	$(install) --no-build-isolation -e '.[demo,dev,gcs,hdfs,horovod,onnx,s3,serve,tune]'
	$(bin)/python -m pip check
	@touch $(dev)

demo: $(stamp) $(raw)/flights.csv
	@$(bin)/python tools/demo.py

# Spark reads no ZIP, so the flights are unpacked.
$(raw)/flights.csv: | $(stamp)
	@$(bin)/python tools/fetch_flights.py $(raw)

test: $(dev)
	@echo "The tests take about 11 minutes on 2 cores."
	$(bin)/python -m pytest -q -n 2 --dist loadfile -m "not slow"

# Of the slow tests those that fit into CI's hour: not the seven nights, the browser, lost ranks,
# Petastorm as it was, nor training of real sizes.
test-slow: $(dev)
	$(bin)/python -m pytest -q -m slow tests/cluster tests/e2e/test_quickstart.py tests/evaluate/measure/test_size.py \
		tests/base/test_quiet.py tests/stores \
		tests/tune/test_job.py tests/laws tests/faults/test_etl_kills.py tests/faults/test_score_kills.py tests/nightly/test_deaths.py

test-all: $(dev)
	tools/install_browser.sh
	tools/install_nginx.sh
	$(bin)/python -m pytest -q --ignore=tests/faults/test_soak.py
	@echo "The soak: an hour of nights, each with a trouble (MILLSTREAM_SOAK_NIGHTS, MILLSTREAM_SOAK_SEED)."
	$(bin)/python -m pytest -q -s tests/faults/test_soak.py

package: $(stamp)
	$(bin)/python tools/package.py dist

digits: $(stamp)
	$(bin)/python tools/make_digits.py $(raw)/digits

petastorm-tests: $(dev)
	@echo "Petastorm's own tests, on today's Arrow and NumPy: about 8 minutes on 2 cores."
	$(bin)/python tools/petastorm_tests.py

# BENCH="--code CHECKOUT" measures another checkout beside this one, here and in bench-etl.
bench-score: $(dev)
	@$(bin)/python -m benchmarks.bench_score $(if $(ROWS),--rows $(ROWS)) $(BENCH)

# BENCH="--mlserver PYTHON" has MLServer beside it.
bench-serve: $(dev)
	@$(bin)/python -m benchmarks.bench_serve $(if $(ROWS),--rows $(ROWS)) $(BENCH)

# Three declarations beside DuckDB, 10 M rows each; ROWS=1000000 BENCH="--only a,b1" for a short run.
bench-etl: $(dev)
	$(bin)/python -m benchmarks.bench_etl $(if $(ROWS),--rows $(ROWS)) $(BENCH)

# One more small date after few nights and after many; some 10 minutes.
bench-nights: $(dev)
	@$(bin)/python -m benchmarks.bench_nights $(BENCH)

# Tables of three times what a rank may hold, under a limit of the kernel: trained, scored with.
bench-limits: $(dev)
	@$(bin)/python -m benchmarks.bench_limits $(BENCH)

# A rank killed, a rank frozen, an executor killed, in a local cluster; BENCH="--seed 7" repeats one.
bench-recovery: $(dev)
	$(bin)/python -m benchmarks.bench_recovery $(BENCH)

# Who asks for the next trial of a search, on two functions; an hour.
bench-samplers: $(dev)
	@$(bin)/python -m benchmarks.bench_samplers $(BENCH)

bench-stream: $(dev)
	$(bin)/python -m benchmarks.bench_stream $(if $(ROWS),--rows $(ROWS)) $(BENCH)

# 40 trials by each sampler on flights and on clicks, beside the settings of conf/: some 40 minutes.
bench-search-quality: $(dev)
	@$(bin)/python tools/fetch_flights.py $(raw)
	@$(bin)/python -m benchmarks.bench_search_quality --data flights $(BENCH)
	@$(bin)/python -m benchmarks.bench_search_quality --data criteo $(BENCH)

# A step with the same bits at any number of ranks beside one without: what that costs.
bench-slices: $(dev)
	@$(bin)/python -m benchmarks.bench_slices $(BENCH)

# AUC on planted clicks and weights of flights with sharded tables: some 15 minutes.
bench-table-quality: $(dev)
	@$(bin)/python tools/fetch_flights.py $(raw)
	@$(bin)/python -m benchmarks.bench_table_quality $(BENCH)

# A step with sharded tables beside replicated ones, growth, memory, TorchRec.
bench-tables: $(dev)
	@$(bin)/python -m benchmarks.bench_tables $(BENCH)

# The search beside plain Optuna, and with halving beside without: half an hour.
bench-tune: $(dev)
	@$(bin)/python tools/fetch_flights.py $(raw)
	@$(bin)/python -m benchmarks.bench_tune $(BENCH)

bench-train: $(dev)
	$(bin)/python -m benchmarks.bench_train $(if $(ROWS),--rows $(ROWS)) $(BENCH)

# After benchmarks/make_criteo.py and the ETL, as benchmarks/bench_quality.py says.
bench-quality: $(dev)
	$(bin)/python -m benchmarks.bench_quality --truth data/truth $(BENCH)

lint: $(dev)
	$(bin)/ruff check .
	$(bin)/ruff format --check .

types: $(dev)
	$(bin)/mypy

fmt: $(dev)
	$(bin)/ruff check --fix .
	$(bin)/ruff format .

clean:
	rm -rf $(VENV) data build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
