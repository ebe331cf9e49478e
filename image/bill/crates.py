"""Which crates are in our programs, as cargo tells it: what the programs need to run, not what builds or tests them.

cargo's own resolution is asked, with the features of the whole workspace, as the image's programs are built.
"""

import json
import subprocess

TARGET = "x86_64-unknown-linux-gnu"


def ask(root):
    told = subprocess.run(
        ["cargo", "metadata", "--locked", "--format-version", "1", "--filter-platform", TARGET],
        cwd=root, check=True, capture_output=True, text=True,
    )
    return json.loads(told.stdout)


def is_macro(package):
    """Runs in the compiler only."""
    return any("proc-macro" in target["kind"] for target in package["targets"])


def crates(metadata, programs):
    """The crates in these programs, ours among them: name, version, licence, and where it came from."""
    packages = {one["id"]: one for one in metadata["packages"]}
    nodes = {one["id"]: one for one in metadata["resolve"]["nodes"]}
    waiting = [one["id"] for one in packages.values() if any("bin" in target["kind"] and target["name"] in programs for target in one["targets"])]
    seen = set()
    while waiting:
        identifier = waiting.pop()
        if identifier in seen or is_macro(packages[identifier]):
            continue
        seen.add(identifier)
        for dependency in nodes[identifier]["deps"]:
            if any(kind["kind"] is None for kind in dependency["dep_kinds"]):
                waiting.append(dependency["pkg"])
    result = []
    for identifier in seen:
        package = packages[identifier]
        # Before 2022 cargo's manual showed a slash for OR.
        licence = (package.get("license") or "NOASSERTION").replace(" / ", " OR ").replace("/", " OR ")
        result.append({"name": package["name"], "version": package["version"], "licence": licence, "ours": package["source"] is None})
    return sorted(result, key=lambda one: (one["name"], one["version"]))
