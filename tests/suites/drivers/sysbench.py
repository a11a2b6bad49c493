"""sysbench's transactions (oltp_read_write, oltp_read_only, oltp_write_only), on four shards: its tables are distributed by their ids.

A test passes when sysbench goes through to its end. It counts transactions that lose against others (40001, 40P01, 23505) and goes on; any other error ends it.
"""

import pathlib
import re
import shutil

import places
from drivers import command

DATABASES = ["sysbench"]
POOLINGS = ["transaction"]
TABLES = 4
SCRIPTS = ["oltp_read_write", "oltp_read_only", "oltp_write_only"]
STEPS = {"prepare": [], "run": ["--time=10"], "cleanup": []}


def prepare(mirrors):
    program = shutil.which("sysbench")
    if not program:
        raise places.Problem("sysbench is missing; apt-get install sysbench")
    return program


def run(program, target, only, output):
    place = ["--db-driver=pgsql", f"--pgsql-host={target.host}", f"--pgsql-port={target.port}", "--pgsql-user=postgres", "--pgsql-db=sysbench"]
    outcomes = {}
    for script in SCRIPTS:
        for statements in ("auto", "disable"):
            name = f"{script}, {'prepared' if statements == 'auto' else 'simple'}"
            if only and only not in name:
                continue
            for step, more in STEPS.items():
                log = output / f"{script}.{statements}.{step}"
                words = [program, *place, f"--tables={TABLES}", "--table-size=2000", "--threads=8", f"--db-ps-mode={statements}", *more]
                status = command([*words, script, step], log, 300, env=target.environment())
                told = log.read_text()
                worked = step != "run" or re.search(r"transactions: +[1-9]", told)
                outcomes[f"{name}: {step}"] = "pass" if status == 0 and "FATAL" not in told and worked else "fail"
    return outcomes


def sharding(output: pathlib.Path):
    shards = str(places.SHARDS).replace("'", '"')
    text = f'[[distributions]]\nname = "ids"\nkey = "integer"\nstrategy = "hash"\nshards = {shards}\n'
    return text + "".join(f'[[tables]]\nname = "sbtest{n}"\ndistribution = "ids"\nkey = "id"\n' for n in range(1, TABLES + 1))
