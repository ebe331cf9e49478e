"""Files for custodians beside rage on the same file, in one go: how much one core encrypts and decrypts in a second."""

import os
import pathlib
import statistics
import subprocess
import tempfile

import servers

KEYS = servers.ROOT / "target/release/postkeep-keys"
RAGE = servers.ROOT / ".tools/cargo/bin/rage"
# Both write the file where the other does; what the disk takes is system time.
RUNS = 5


def seconds(*command):
    """Runs it; CPU seconds of its own and of the kernel's for it."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    said = process.stderr.read()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{pathlib.Path(command[0]).name} failed: {said.decode(errors='replace').strip()[-300:]}")
    return used.ru_utime + used.ru_stime, used.ru_utime


def measure(options):
    """Prints a table; gives megabytes a second and core, with the kernel's part and without."""
    octets = options.exports << 20
    print(f"\nfiles for custodians, {options.exports} MiB, beside rage ({RUNS} runs in turns)", flush=True)
    options.scratch.mkdir(parents=True, exist_ok=True)
    times = {}
    with tempfile.TemporaryDirectory(prefix="exports-", dir=options.scratch) as folder:
        path = {name: f"{folder}/{name}" for name in ("plain", "one.key", "two.key", "keys.toml", "ours", "ours.plain", "rage", "rage.plain")}
        with open(path["plain"], "wb") as plain:
            for _ in range(options.exports):
                plain.write(os.urandom(1 << 20))
        public = [subprocess.run([KEYS, "generate", "--out", path[name]], check=True, capture_output=True, text=True).stdout.strip() for name in ("one.key", "two.key")]
        lines = ["threshold = 2"] + [f'[[custodian]]\nname = "{name}"\nrecipients = ["{key}"]' for name, key in zip(("one", "two"), public)]
        pathlib.Path(path["keys.toml"]).write_text("\n".join(lines) + "\n")
        work = {
            ("encrypt", "postkeep"): (KEYS, "export", "--keys", path["keys.toml"], "--in", path["plain"], "--out", path["ours"]),
            ("encrypt", "rage"): (RAGE, "--recipient", public[0], "--recipient", public[1], "--output", path["rage"], path["plain"]),
            ("decrypt", "postkeep"): (KEYS, "import", "--in", path["ours"], "--identity", path["one.key"], "--identity", path["two.key"], "--out", path["ours.plain"]),
            ("decrypt", "rage"): (RAGE, "--decrypt", "--identity", path["one.key"], "--output", path["rage.plain"], path["rage"]),
        }
        for turn in range(RUNS):
            for name in ("ours", "ours.plain", "rage", "rage.plain"):
                pathlib.Path(path[name]).unlink(missing_ok=True)
            # Each round begins with the other.
            order = sorted(work, key=lambda one: (one[0] == "decrypt", (one[1] == "rage") == (turn % 2 == 0)))
            for what in order:
                times.setdefault(what, []).append(seconds(*work[what]))
        for name in ("ours.plain", "rage.plain"):
            if subprocess.run(["cmp", "--silent", path["plain"], path[name]]).returncode:
                raise RuntimeError(f"{name}: something else came back")
    rate = {what: [octets / 1e6 / statistics.median(run[part] for run in runs) for part in (0, 1)] for what, runs in times.items()}
    print(f"{'MB a second and core':<24}{'postkeep':>10}{'rage':>10}{'ratio':>8}    without the kernel's part")
    result = {}
    for verb in ("encrypt", "decrypt"):
        ours, theirs = rate[verb, "postkeep"], rate[verb, "rage"]
        print(f"{verb:<24}{ours[0]:>10.0f}{theirs[0]:>10.0f}{ours[0] / theirs[0]:>8.2f}{ours[1]:>14.0f}{theirs[1]:>10.0f}{ours[1] / theirs[1]:>8.2f}")
        result[verb] = {"postkeep": ours[0], "rage": theirs[0], "postkeep-user": ours[1], "rage-user": theirs[1]}
    return {"octets": octets, **result}
