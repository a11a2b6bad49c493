# The commands of the project. Each installs what it needs and is missing, with apt-get as root or by passwordless sudo,
# or says what to install.
.POSIX:

CARGO = cargo
# For `make demo`, like DEMO_ARGS="--shards 8 --fresh"; see `trunkline demo --help`.
DEMO_ARGS =
# For `make bench`, like BENCH_ARGS="--protocols prepared"; see `cargo bench --bench proxy -- --help`.
BENCH_ARGS =
# For `make suites`, like SUITES="asyncpg regress"; see `tests/suites/run --help`. Without names all of them run, for more than an hour.
SUITES =
# For `make test`, like TEST_ARGS="--test it".
TEST_ARGS =
# Servers under test write gigabytes, and a slow disk makes all wait that renew a lease: where memory is plenty, their data goes there.
PLENTY = 12
define MEMORY_FOLDER
memory=$$(awk '/^MemAvailable/ { print int($$2 / 1048576) }' /proc/meminfo); \
shared=$$(df -k /dev/shm 2>/dev/null | awk 'END { print int($$4 / 1048576) }'); folder=; \
trap 'rm -rf "$$folder"' EXIT; trap 'exit 130' INT TERM; \
if [ "$${memory:-0}" -ge $(PLENTY) ] && [ "$${shared:-0}" -ge $(PLENTY) ]; then \
	folder=$$(mktemp -d /dev/shm/trunkline.XXXXXX) && chmod 755 "$$folder" && export TMPDIR="$$folder"; \
fi
endef

# The system's before others: what runs as another user must be able to enter it.
PYTHON = $(firstword $(wildcard /usr/bin/python3) python3)
VENV = .venv

all: build

help:
	@echo 'make demo         a local sharded cluster with sample data and a tour (DEMO_ARGS)'
	@echo 'make test         all tests, on Postgres servers and an etcd that they start (TEST_ARGS)'
	@echo 'make suites       drivers'"'"' and Postgres'"'"'s own test suites through Trunkline (SUITES)'
	@echo 'make lint         formatting and clippy'
	@echo 'make check        lint and test'
	@echo 'make bench        cost per statement, beside PgBouncer (BENCH_ARGS); bench-smoke: the same in two minutes'
	@echo 'make bench-several  statements over several shards only, beside servers without a proxy (BENCH_ARGS, like --smoke)'
	@echo 'make build        the debug build; release: the optimised one'

build: has-cargo
	$(CARGO) build --locked

release: has-cargo
	$(CARGO) build --locked --release

demo: has-cargo has-postgres
	$(CARGO) build --locked --bin trunkline
	@exec $(CARGO) run --quiet --locked --bin trunkline -- demo $(DEMO_ARGS)

test: has-cargo has-postgres has-etcd $(VENV)/drivers
	@$(MEMORY_FOLDER); CARGO="$(CARGO)" tests/run --locked $(TEST_ARGS)

# Test suites that others wrote: directly and through Trunkline, held against tests/suites/expected.
suites: build has-postgres has-suite-tools
	tests/suites/run $(SUITES)

bench: has-cargo has-postgres has-pgbouncer
	$(CARGO) bench --locked --bench micro
	$(CARGO) bench --locked --bench proxy -- $(BENCH_ARGS)

bench-smoke: has-cargo has-postgres has-pgbouncer
	$(CARGO) bench --locked --bench proxy -- --smoke $(BENCH_ARGS)

# A part of `make bench`.
bench-several: has-cargo has-postgres
	$(CARGO) bench --locked --bench proxy -- \
		--only two_shard_commit,atomic_read,scatter_aggregate,merge_sort,copy_from,gather,tpch $(BENCH_ARGS)

lint: has-cargo has-lints
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings

check: lint test

clean:
	$(CARGO) clean
	rm -rf $(VENV) .cache

# Defines apt_install PACKAGE...
APT_INSTALL = apt_install() { \
	if ! command -v apt-get >/dev/null; then echo "please install: $$*" >&2; return 1; fi; \
	if [ "$$(id -u)" = 0 ]; then as_root=; \
	elif sudo -n true 2>/dev/null; then as_root=sudo; \
	else echo "please run: sudo apt-get install $$*" >&2; return 1; fi; \
	echo "installing $$*"; \
	$$as_root apt-get update -qq && \
	$$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$$@" </dev/null >/dev/null; }

has-cargo:
	@command -v $(CARGO) >/dev/null || { \
		echo "cargo is missing; install a Rust toolchain as https://rustup.rs says, and a C compiler (apt-get install gcc)" >&2; \
		exit 1; }
	@command -v cc >/dev/null || { $(APT_INSTALL); apt_install gcc libc6-dev; }

has-lints:
	@{ $(CARGO) fmt --version && $(CARGO) clippy --version; } >/dev/null 2>&1 || rustup component add rustfmt clippy

has-postgres:
	@if [ -n "$$PG_BIN" ] || command -v initdb >/dev/null || \
		ls /usr/lib/postgresql/*/bin/initdb /usr/pgsql-*/bin/initdb 2>/dev/null | grep -q .; then :; \
	else $(APT_INSTALL); apt_install postgresql; fi

# For the tests of the control store. Debian starts one with the package; the tests have their own.
has-etcd:
	@command -v etcd >/dev/null || { $(APT_INSTALL); apt_install etcd-server; }

# To build parts of Postgres's test suites, and certificates.
has-suite-tools:
	@{ [ -e /usr/include/libpq-fe.h ] || [ -e /usr/include/postgresql/libpq-fe.h ]; } && command -v openssl >/dev/null && \
		command -v bzip2 >/dev/null && $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		$(APT_INSTALL); apt_install libpq-dev openssl bzip2 python3-venv; }
	@case '$(SUITES)' in ''|*sysbench*) command -v sysbench >/dev/null || { $(APT_INSTALL); apt_install sysbench; } ;; esac
	@case '$(SUITES)' in ''|*node_postgres*) command -v npm >/dev/null || { $(APT_INSTALL); apt_install nodejs npm; } ;; esac

# The benchmark does without it, with no ratio to show.
has-pgbouncer:
	@command -v pgbouncer >/dev/null || [ -x /usr/sbin/pgbouncer ] || { \
		$(APT_INSTALL); apt_install pgbouncer || echo "going on without pgbouncer" >&2; }

# Python drivers for the tests.
$(VENV)/drivers: tests/requirements.txt
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { $(APT_INSTALL); apt_install python3-venv; }
	$(PYTHON) -m venv --clear $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --no-input -r tests/requirements.txt
	@touch $@

.PHONY: all help build release demo test suites has-suite-tools bench bench-smoke bench-several lint check clean
.PHONY: has-cargo has-lints has-postgres has-etcd has-pgbouncer
