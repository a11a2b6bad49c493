"""libpq's pipeline tests: a program of Postgres's sources, whose trace of the messages on the wire is compared too."""

import shlex

import places
import sources
from drivers import command

DATABASES = ["postgres"]
TRACED = ["simple_pipeline", "nosync", "multi_pipelines", "prepared", "singlerow", "pipeline_abort", "pipeline_idle"]
TRACED += ["transaction", "disallowed_in_pipeline"]


def prepare(mirrors):
    source = sources.postgres_sources() / "src/test/modules/libpq_pipeline"
    headers, major = sources.server_headers()

    def make(folder):
        include, libraries = headers / f"usr/include/postgresql/{major}/server", headers / f"usr/lib/postgresql/{major}/lib"
        words = f"cc -O1 -o {folder}/libpq_pipeline {source}/libpq_pipeline.c -I{include} -I/usr/include/postgresql"
        sources.run(*shlex.split(words), f"-L{libraries}", "-lpq", "-lpgcommon", "-lpgport")

    return source, sources.once(places.CACHE / f"libpq_pipeline-{major}", make) / "libpq_pipeline"


def run(prepared, target, only, output):
    source, program = prepared
    outcomes = {}
    for name in sources.run(program, "tests").split():
        if only and only not in name:
            continue
        trace = output / f"{name}.trace"
        words = [program, "-r", "700"] + (["-t", trace] if name in TRACED else [])
        # A trace shows what is asked first; TLS would be.
        words += [name, f"host={target.host} port={target.port} user=postgres dbname=postgres sslmode=disable"]
        code = command(words, output / f"{name}.log", 120, env=target.environment())
        outcomes[name] = "pass" if code == 0 else "fail"
        if name in TRACED:
            expected = source / "traces" / f"{name}.trace"
            if expected.exists():
                same = trace.exists() and trace.read_text() == expected.read_text()
                outcomes[f"{name} trace"] = "pass" if same else "fail"
    return outcomes
