"""One file for each suite.

A file has DATABASES (those the suite connects to; ALSO_KNOWN, if there, those that it makes itself), `prepare(mirrors)`, which fetches and builds and returns what `run` needs, and
`run(prepared, target, only, output)`, which returns the outcome of each test by name: "pass", "fail" or "skip". `only` is a part of the tests' names
or None; `output` is a new directory for what a reader of failures wants to see.

A suite with `sharding(direct)` runs on four shards: that is the configuration of its tables, and `direct` the output of the direct run. POOLINGS, if there, are the only ones.
"""

import os
import signal
import subprocess
import xml.etree.ElementTree as tree


def command(words, log, timeout, **options):
    """Runs it to its end, or to the time-out, with its output in the log."""
    with open(log, "wb") as file:
        process = subprocess.Popen(
            [str(word) for word in words], stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True, **options
        )
        try:
            return process.wait(timeout)
        except subprocess.TimeoutExpired:
            file.write(b"\n*** time-out ***\n")
            return None
        finally:
            # A suite that goes on alone would keep its servers busy.
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def junit(path):
    """Outcomes from a report in JUnit's form; a test that both fails and errs fails once."""
    outcomes = {}
    for case in tree.parse(path).getroot().iter("testcase"):
        module = case.get("classname", "").removeprefix("tests.")
        kinds = {child.tag for child in case}
        outcome = "fail" if kinds & {"failure", "error"} else "skip" if "skipped" in kinds else "pass"
        name = f"{module}::{case.get('name')}"
        if outcomes.get(name) != "fail":
            outcomes[name] = outcome
    return outcomes
