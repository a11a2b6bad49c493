"""The servers a suite is run against: a Postgres of its own for each run, and a pooler in front of it."""

import contextlib
import os
import pathlib
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache" / "suites"

# The shards of a place that has several.
SHARDS = ["s1", "s2", "s3", "s4"]

# Who may log in, with what. The suites know these names; all others of a server's roles log in on the server only.
PASSWORDS = {"postgres": None, "pass_user": "password", "md5_user": "password", "scram_user": "password"}


class Problem(Exception):
    """The run cannot be made; the text says what is missing."""


def pg_bin():
    """The directory of Postgres's programs."""
    if "PG_BIN" in os.environ:
        return pathlib.Path(os.environ["PG_BIN"])
    found = sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: int(p.parts[-3]))
    if found:
        return found[-1].parent
    initdb = shutil.which("initdb")
    if not initdb:
        raise Problem("Postgres's programs are missing; install postgresql or set PG_BIN")
    return pathlib.Path(initdb).parent


def server_user():
    """Whom a Postgres runs as: it refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    raise Problem("there is no user postgres or nobody to run Postgres as")


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_for_port(port, process, log):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise Problem(f"it ended early; see {log}:\n{log.read_text()[-2000:]}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.02)
    raise Problem(f"nobody listens on port {port}; see {log}")


class Program:
    """A running server, stopped by its own process id."""

    def __init__(self, command, log, stop=signal.SIGTERM, **popen):
        self.log, self.stop_signal = log, stop
        with open(log, "ab") as output:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, **popen
            )

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(self.stop_signal)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


class Postgres:
    """A fresh cluster: trust for all, passwords for those that a suite logs in with one, TLS offered."""

    SETTINGS = {
        "fsync": "off",
        "synchronous_commit": "off",
        "full_page_writes": "off",
        "max_connections": "200",
        "max_prepared_transactions": "20",
        "shared_buffers": "128MB",
        "max_wal_senders": "4",
        "log_line_prefix": "'%m [%p] %q%a '",
    }

    def __init__(self, folder):
        self.folder, self.port = folder, free_port()
        self.data, self.log = folder / "data", folder / "postgres.log"
        self.user = server_user()
        run = lambda *command: subprocess.run(command, check=True, stdout=subprocess.DEVNULL, **self.user)
        if self.user:
            os.chown(folder, self.user["user"], self.user["group"])
        run(pg_bin() / "initdb", "-D", self.data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "-N")
        self.certificate(folder)
        lines = [f"{name} = {value}" for name, value in self.SETTINGS.items()]
        lines += [f"port = {self.port}", "listen_addresses = '127.0.0.1,::1'", f"unix_socket_directories = '{folder}'"]
        lines += ["ssl = on", "ssl_cert_file = 'server.crt'", "ssl_key_file = 'server.key'"]
        with open(self.data / "postgresql.auto.conf", "a") as file:
            file.write("\n".join(lines) + "\n")
        hba = [
            f"{kind} all {user} {address} {method}"
            for user, method in (("pass_user", "password"), ("md5_user", "md5"), ("scram_user", "scram-sha-256"), ("all", "trust"))
            for kind, address in (("local", ""), ("host", "all"))
        ]
        (self.data / "pg_hba.conf").write_text("\n".join(hba + ["local replication all trust", "host replication all all trust"]) + "\n")
        # Fast shutdown: clients of a failed suite are not waited for.
        self.program = Program([pg_bin() / "postgres", "-D", self.data], self.log, stop=signal.SIGINT, **self.user)
        try:
            wait_for_port(self.port, self.program.process, self.log)
            subprocess.run(["sh", "-c", f"until {pg_bin() / 'pg_isready'} -q -h 127.0.0.1 -p {self.port}; do sleep 0.05; done"], timeout=60)
            self.psql(
                "SET password_encryption = 'md5'; CREATE ROLE md5_user LOGIN PASSWORD 'password';"
                "SET password_encryption = 'scram-sha-256'; CREATE ROLE scram_user LOGIN PASSWORD 'password';"
                "CREATE ROLE pass_user LOGIN PASSWORD 'password';"
            )
        except BaseException:
            self.stop()
            raise

    def certificate(self, folder):
        subprocess.run(
            ["openssl", "req", "-new", "-x509", "-days", "30", "-nodes", "-subj", "/CN=localhost", "-newkey", "ec"]
            + ["-pkeyopt", "ec_paramgen_curve:prime256v1", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
            + ["-out", self.data / "server.crt", "-keyout", self.data / "server.key"],
            check=True, stderr=subprocess.DEVNULL,
        )
        for name in ("server.crt", "server.key"):
            # The pooler in front, which may be another user, serves with the same certificate.
            shutil.copy(self.data / name, folder / name)
            for path in (self.data / name, folder / name):
                path.chmod(0o600)
            if self.user:
                os.chown(self.data / name, self.user["user"], self.user["group"])

    def psql(self, script, database="postgres"):
        """Runs these commands, each in a transaction of its own, past whatever is in front."""
        command = [pg_bin() / "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-p", str(self.port)]
        done = subprocess.run(
            command + ["-U", "postgres", "-d", database, "-f", "-"], input=script, text=True, capture_output=True
        )
        if done.returncode != 0:
            raise Problem(f"psql: {done.stderr}")
        return done.stdout

    def stop(self):
        self.program.stop()


def trunkline_config(servers, port, pooling, databases, tables):
    """One shard that is not sharded, so that every statement is for it; or several, with these distributions and tables."""
    folder = servers[0].folder
    lines = [
        "[listen]", f'addresses = ["127.0.0.1:{port}", "[::1]:{port}"]', f'unix_socket_directory = "{folder}"',
        "[listen.tls]", 'mode = "prefer"', f'certificate = "{folder}/server.crt"', f'key = "{folder}/server.key"',
        "[limits]", 'max_message_size = "1GB"',
        "[pool]", f'mode = "{pooling}"', "size = 60",
    ]
    for user, password in PASSWORDS.items():
        lines += ["[[users]]", f'name = "{user}"']
        lines += [f'password = "{password}"'] if password else ['auth = "trust"']
        if user == "md5_user":
            lines += ['auth = "md5"']
    for database in databases:
        lines += ["[[databases]]", f'name = "{database}"']
        lines += [f'default_shard = "{SHARDS[0]}"'] if tables else []
    for name, server in zip(SHARDS, servers):
        lines += ["[[shards]]", f'name = "{name}"', f'nodes = [{{ host = "127.0.0.1", port = {server.port} }}]']
    return "\n".join(lines) + "\n" + tables


class Trunkline:
    def __init__(self, servers, pooling, databases, tables):
        self.port, folder = free_port(), servers[0].folder
        program = pathlib.Path(os.environ.get("TRUNKLINE", ROOT / "target/debug/trunkline"))
        if not program.exists():
            raise Problem(f"{program} is missing: cargo build, or set TRUNKLINE")
        config = folder / "trunkline.toml"
        config.write_text(trunkline_config(servers, self.port, pooling, databases, tables))
        self.log = folder / "trunkline.log"
        # SIGINT ends it at once, with no wait for open transactions.
        self.program = Program([program, "serve", config], self.log, stop=signal.SIGKILL)
        wait_for_port(self.port, self.program.process, self.log)
        if tables:
            for database in databases:
                self.wait_for_definitions(database)

    def wait_for_definitions(self, database):
        """Until then nobody can say where a table is, not even that there is none."""
        ask = [pg_bin() / "psql", "-X", "-q", "-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres", "-d", database]
        ask += ["-c", "SELECT 1 FROM no_table_has_this_name"]
        deadline = time.monotonic() + 60
        while "does not exist" not in subprocess.run(ask, capture_output=True, text=True).stderr:
            if time.monotonic() > deadline:
                raise Problem(f"the definitions of {database} are not read; see {self.log}")
            time.sleep(0.05)

    def stop(self):
        self.program.stop()


class PgBouncer:
    def __init__(self, postgres, pooling, databases):
        self.port, folder = free_port(), postgres.folder
        config = folder / "pgbouncer.ini"
        (folder / "users.txt").write_text("".join(f'"{user}" "{word or ""}"\n' for user, word in PASSWORDS.items()))
        (folder / "hba.conf").write_text(
            "".join(
                f"{kind} all {user} {address} {method}\n"
                for user, method in (("pass_user", "password"), ("md5_user", "md5"), ("scram_user", "scram-sha-256"), ("all", "trust"))
                for kind, address in (("local", ""), ("host", "all"))
            )
        )
        settings = {
            "listen_addr": "127.0.0.1,::1", "listen_port": self.port, "unix_socket_dir": folder, "auth_type": "hba",
            "auth_hba_file": folder / "hba.conf", "auth_file": folder / "users.txt", "pool_mode": pooling,
            "default_pool_size": 60, "max_client_conn": 500, "ignore_startup_parameters": "extra_float_digits,options,search_path",
            "client_tls_sslmode": "prefer", "client_tls_cert_file": folder / "server.crt", "client_tls_key_file": folder / "server.key",
        }
        version = subprocess.run(["pgbouncer", "--version"], capture_output=True, text=True).stdout
        if tuple(int(part) for part in version.split()[1].split(".")[:2]) >= (1, 21):
            settings["max_prepared_statements"] = 200
        lines = ["[databases]", f"* = host=127.0.0.1 port={postgres.port}", "[pgbouncer]"]
        config.write_text("\n".join(lines + [f"{name} = {value}" for name, value in settings.items()]) + "\n")
        self.log = folder / "pgbouncer.log"
        user = postgres.user
        if user:
            for name in ("pgbouncer.ini", "users.txt", "hba.conf", "server.crt", "server.key"):
                os.chown(folder / name, user["user"], user["group"])
        self.program = Program(["pgbouncer", config], self.log, stop=signal.SIGQUIT, **user)
        wait_for_port(self.port, self.program.process, self.log)

    def stop(self):
        self.program.stop()


class Target:
    """What a suite gets: where to connect, and the servers behind it."""

    def __init__(self, servers, front):
        self.servers, self.postgres = servers, servers[0]
        self.host, self.socket_folder = "127.0.0.1", servers[0].folder
        self.port = (front or servers[0]).port

    def environment(self, **more):
        """libpq's variables, and nothing of the caller's."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        return kept | {"PGHOST": self.host, "PGPORT": str(self.port), "PGUSER": "postgres"} | more


@contextlib.contextmanager
def target(place, databases, also_known, tables=""):
    """Servers for the place: "direct", "session", "transaction" (of Trunkline), or the latter two behind "pgbouncer-". With tables Trunkline has four shards."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="trunkline-suite.", dir=os.environ.get("TMPDIR", "/var/tmp")))
    folder.chmod(0o755)
    servers, front = [], None
    try:
        for name in SHARDS if tables else SHARDS[:1]:
            (folder / name).mkdir(mode=0o755)
            servers.append(Postgres(folder / name))
            for database in databases:
                if database != "postgres":
                    servers[-1].psql(f'CREATE DATABASE "{database}" TEMPLATE template0')
        if place.startswith("pgbouncer-"):
            front = PgBouncer(servers[0], place.removeprefix("pgbouncer-"), databases)
        elif place != "direct":
            front = Trunkline(servers, place, databases + also_known, tables)
        yield Target(servers, front)
    finally:
        for program in [front] * (front is not None) + servers:
            logs = CACHE / "logs" / place / program.log.parent.name
            logs.mkdir(parents=True, exist_ok=True)
            program.stop()
            shutil.copy(program.log, logs)
        shutil.rmtree(folder, ignore_errors=True)
