"""The sums of a built image by which two builds of it are compared, and by which a release is told apart from any other.

What signing adds is not in them: a signature carries the time, and whoever builds the release a second time does not have
its keys. They are written as `sha256sum` writes them: the sum, two spaces, the name.

    root-hash           the hash of the root's hash tree; it stands in the boot file's command line
    root                the root's partition
    hash-tree           the partition with its hashes
    kernel, initrd      in the boot file
    boot-file-sections  all of the boot file but the signature over PCR 11 and the one around it
    boot-file           the boot file but the signature around it (as firmware hashes it); only the same keys give the same
    pcr-11              what the boot file measures, up to the moment in which the data volume is opened
"""

import hashlib
import json
import subprocess

PHASE = "enter-initrd:leave-initrd"
# Depends on who signed; all others are the same for everybody.
OF_THE_KEYS = {"boot-file"}


def of_file(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def measure(firmware, boot_file):
    """What postkeep-firmware says of a boot file."""
    told = subprocess.run([firmware, "measure", boot_file, "--json"], capture_output=True, text=True)
    if not told.stdout:
        raise RuntimeError(f"{boot_file} cannot be measured: {told.stderr.strip()}")
    return json.loads(told.stdout)


def section(boot_file, measured, name):
    """The content of a section of the boot file."""
    one = next(one for one in measured["sections"] if one["name"] == name)
    with open(boot_file, "rb") as file:
        file.seek(one["offset"])
        return file.read(one["size"])


def names(folder, version):
    """The files of a build that are looked at."""
    stem = folder / f"postkeep_{version}"
    return {"boot-file": stem.with_name(stem.name + ".efi"), "root": stem.with_name(stem.name + ".root-x86-64.raw"),
            "hash-tree": stem.with_name(stem.name + ".root-x86-64-verity.raw")}


def root_hash(boot_file, measured):
    """Of the root that the boot file starts: what its command line says."""
    line = section(boot_file, measured, ".cmdline").decode().strip("\0 ")
    return next(word.removeprefix("roothash=") for word in line.split() if word.startswith("roothash="))


def sums(folder, version, firmware):
    """Name → sum, in the order above."""
    files = names(folder, version)
    measured = measure(firmware, files["boot-file"])
    sections = {one["name"]: one["sha256"] for one in measured["sections"]}
    unsigned = "".join(f"{name} {digest}\n" for name, digest in sections.items() if name != ".pcrsig")
    return {
        "root-hash": root_hash(files["boot-file"], measured),
        "root": of_file(files["root"]),
        "hash-tree": of_file(files["hash-tree"]),
        "kernel": sections[".linux"],
        "initrd": sections[".initrd"],
        "boot-file-sections": hashlib.sha256(unsigned.encode()).hexdigest(),
        "boot-file": measured["authenticode"],
        "pcr-11": next(one["value"] for one in measured["pcr11"] if one["phase"] == PHASE),
    }


def written(values):
    return "".join(f"{digest}  {name}\n" for name, digest in values.items())


def read(text):
    """What `written` wrote; lines that begin with # are for people."""
    values = {}
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip() and not line.startswith("#"):
            parts = line.split()
            if len(parts) != 2 or len(parts[0]) != 64 or parts[1] in values:
                raise ValueError(f"line {number} is no sum and name: {line!r}")
            values[parts[1]] = parts[0]
    return values
