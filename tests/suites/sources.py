"""Brings the pinned sources of suites into .cache/suites. Nothing is fetched twice."""

import hashlib
import json
import pathlib
import shutil
import subprocess
import sys

from places import CACHE, ROOT, Problem


def run(*command, **options):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, stdin=subprocess.DEVNULL, **options)
    if done.returncode != 0:
        raise Problem(f"{' '.join(map(str, command))}\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return done.stdout


def once(folder, make):
    """The folder, made by `make(folder)` unless it was made before."""
    if not (folder / ".complete").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        make(folder)
        (folder / ".complete").touch()
    return folder


def virtual_environment(name, *requirements):
    """The python of an environment with these packages."""

    def make(folder):
        run(sys.executable, "-m", "venv", folder)
        run(folder / "bin/pip", "install", "--quiet", "--disable-pip-version-check", "--no-input", *requirements)

    mark = hashlib.sha256(" ".join(requirements).encode()).hexdigest()[:8]
    return once(CACHE / f"{name}-environment-{mark}", make) / "bin/python"


def source_distribution(python, package, version):
    """What the Python package's maintainers upload as source."""

    def make(folder):
        pip = [python, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
        run(*pip, "--no-deps", "--no-binary", package, "-d", folder, f"{package}=={version}")
        (archive,) = folder.glob("*.tar.gz")
        run("tar", "xzf", archive, "-C", folder, "--strip-components=1")

    return once(CACHE / f"{package}-{version}", make)


def git(name, url, tag, mirrors):
    """A repository at a tag, from its home or from a copy named on the command line."""

    def make(folder):
        run("git", "-c", "advice.detachedHead=false", "clone", "--quiet", mirrors.get(name, url), folder)
        run("git", "-C", folder, "checkout", "--quiet", tag)

    return once(CACHE / f"{name}-{tag}", make)


def crate(package):
    """The source of a crate at the version of Cargo.lock."""
    lock = (ROOT / "Cargo.lock").read_text()
    version = lock.split(f'name = "{package}"\nversion = "', 1)[1].split('"', 1)[0]
    run("cargo", "fetch", "--locked", cwd=ROOT)
    packages = json.loads(run("cargo", "metadata", "--locked", "--format-version", "1", cwd=ROOT))["packages"]
    (manifest,) = [entry["manifest_path"] for entry in packages if entry["name"] == package and entry["version"] == version]
    return pathlib.Path(manifest).parent, version


def postgres_sources():
    """Postgres's sources of the same major version as the server's programs, from Debian."""
    from places import pg_bin

    major = run(pg_bin() / "postgres", "--version").split()[2].split(".")[0]

    def make(folder):
        lists, parts = folder / "apt/lists", folder / "apt/parts"
        (lists / "partial").mkdir(parents=True)
        parts.mkdir()
        # The machine's own list with sources in place of packages, kept apart so that the machine's stay as they are.
        for entry in pathlib.Path("/etc/apt/sources.list.d").glob("*.sources"):
            (parts / entry.name).write_text(entry.read_text().replace("Types: deb\n", "Types: deb-src\n"))
        for entry in [pathlib.Path("/etc/apt/sources.list"), *pathlib.Path("/etc/apt/sources.list.d").glob("*.list")]:
            if entry.exists():
                lines = entry.read_text().splitlines()
                text = "".join(line.replace("deb ", "deb-src ", 1) + "\n" for line in lines if line.startswith("deb "))
                (parts / f"{entry.stem}.list").write_text(text)
        apt = ["-o", "Dir::Etc::sourcelist=/dev/null", "-o", f"Dir::Etc::sourceparts={parts}", "-o", f"Dir::State::lists={lists}"]
        run("apt-get", *apt, "update")
        package = f"postgresql-{major}"
        shown = run("apt-cache", *apt, "showsrc", package)
        versions = [line.split()[1] for line in shown.splitlines() if line.startswith("Version: ")]
        problem = Problem(f"no sources of {package} are offered")
        # Not every version that is listed can be had.
        for version in versions:
            try:
                run("apt-get", *apt, "source", "--download-only", f"{package}={version}", cwd=folder)
                break
            except Problem as missing:
                problem = missing
        else:
            raise problem
        (archive,) = folder.glob("*.orig.tar.*")
        run("tar", "xf", archive, "-C", folder, "--strip-components=1")
        archive.unlink()

    return once(CACHE / f"postgres-{major}", make)


def server_headers():
    """Headers and static libraries of the server, to compile tests with, without what else their package wants."""
    from places import pg_bin

    major = run(pg_bin() / "postgres", "--version").split()[2].split(".")[0]

    def make(folder):
        run("apt-get", "download", f"postgresql-server-dev-{major}", cwd=folder)
        (archive,) = folder.glob("*.deb")
        run("dpkg", "-x", archive, folder)

    return once(CACHE / f"postgres-headers-{major}", make), major
