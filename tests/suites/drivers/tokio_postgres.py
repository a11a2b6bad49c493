"""tokio-postgres: its tests come with the crate, at the version that Trunkline itself uses."""

import os
import re
import shutil

import places
import sources
from drivers import command

DATABASES = ["postgres"]
FEATURES = "array-impls,with-bit-vec-0_9,with-chrono-0_4,with-eui48-1,with-geo-types-0_7,with-jiff-0_2,with-serde_json-1,with-smol_str-01"
FEATURES += ",with-time-0_3,with-uuid-1"

# The tests have a port written into their text; it is taken from the environment instead.
PORT = """
fn with_port(text: &str) -> &'static str {
    text.replace("5433", &std::env::var("SUITE_PORT").expect("the runner sets it")).leak()
}
"""


def prepare(mirrors):
    source, version = sources.crate("tokio-postgres")

    def make(folder):
        shutil.copytree(source, folder, dirs_exist_ok=True)
        for path in (folder / "tests/test/main.rs", folder / "tests/test/runtime.rs"):
            path.chmod(0o644)
            text = path.read_text()
            path.write_text(re.sub(r'"[^"]*\b5433\b[^"]*"', lambda found: f"with_port({found[0]})", text) + PORT)
        # A workspace of its own, inside the project's.
        manifest = folder / "Cargo.toml"
        manifest.chmod(0o644)
        manifest.write_text(manifest.read_text() + "\n[workspace]\n")
        (folder / "Cargo.lock").unlink(missing_ok=True)

    folder = sources.once(places.CACHE / f"tokio-postgres-{version}", make)
    build = ["cargo", "test", "--quiet", "--test", "test", "--no-run", "--features", FEATURES, "--message-format=json"]
    built = sources.run(*build, cwd=folder, env=os.environ | {"CARGO_TARGET_DIR": str(places.CACHE / "tokio-postgres-target")})
    (program,) = re.findall(r'"executable":"([^"]+/test-[^"]+)"', built)
    return program


def run(program, target, only, output):
    target.postgres.psql("CREATE EXTENSION hstore; CREATE EXTENSION citext; CREATE EXTENSION ltree;")
    log = output / "log"
    words = [program, "--test-threads=4"] + ([only] if only else [])
    command(words, log, 300, cwd=output, env=target.environment(SUITE_PORT=str(target.port)))
    # Tests write among the lines of the runner, which says at its end which failed.
    text = log.read_text(errors="replace")
    names = sources.run(program, "--list", *words[2:]).splitlines()
    failed = set(re.findall(r"^    (\S+)$", text.rpartition("failures:")[2], re.M)) if "failures:" in text else set()
    finished = "test result:" in text
    ignored = set(re.findall(r"^test (\S+) \.\.\. ignored", text, re.M))
    outcomes = {}
    for name in (line.removesuffix(": test") for line in names if line.endswith(": test")):
        outcomes[name] = "skip" if name in ignored else "pass" if finished and name not in failed else "fail"
    return outcomes
