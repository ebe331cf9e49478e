"""The suppression list alone: import, look-ups, start and rebuilding, with what they need."""

import json
import subprocess
import tempfile

import servers


def measure(options):
    """Runs the list's own benchmark; prints its lines, gives what it measured."""
    program = servers.ROOT / "target/release/examples/suppression_bench"
    options.scratch.mkdir(parents=True, exist_ok=True)
    print(f"\nsuppression list, {options.suppression:,} entries", flush=True)
    with tempfile.TemporaryDirectory(prefix="suppression-", dir=options.scratch) as folder:
        process = subprocess.Popen([program, f"{folder}/list", str(options.suppression)], stdout=subprocess.PIPE, text=True)
        last = ""
        for line in process.stdout:
            last = line
            if not line.startswith("{"):
                print(line, end="", flush=True)
    if process.wait() != 0:
        raise RuntimeError("the benchmark of the suppression list failed")
    return {"entries": options.suppression, **json.loads(last)}
