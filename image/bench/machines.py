#!/usr/bin/env python3
"""Boots the image and a plain Debian 13 turn by turn on the same machine and measures both the same way.

    machines.py [--boots N]       (run in the tools tree by `scripts/image bench`; prints JSON in its last line)

The machine: QEMU in software emulation, UEFI with our Secure Boot keys, a TPM, one disk, one wire, 2 GiB of memory. The
first boot of each is not timed: one makes its data volume, the other its host keys. Then power is cut and the machine is
started again: from power on to the line on the serial console that says that the system is there. A box of custodians is there when it
offers itself to be opened, on its console and at its door.

Memory at idle is what the guest's kernel says of itself to the balloon device: all that it manages less what it calls
available (the same as `used` of free(1)). It is read until it stands still.
"""

import argparse
import json
import os
import pathlib
import shutil
import socket
import ssl
import statistics
import subprocess
import time

from custodians import DOOR, Custodians
from machine import Machine
from stage import TAP, Owner, network, write_seed

BUILD = pathlib.Path("/build")
SCRATCH = BUILD / "scratch/bench"
BALLOON = ("-device", "virtio-balloon-pci,id=balloon")
CLOCK = os.sysconf("SC_CLK_TCK")
# Lines on the serial console, in their order; the last is the one that counts as "there".
MARKS = {
    "postkeep": ("Mounted Data volume", "Reached target Postkeep takes mail"),
    "sealed": ("postkeep: sealed: postkeep-offer-1",),
    "debian": (" login:",),
}
FIRST = {"sealed": "Reached target Postkeep takes mail"}


class Monitor:
    """QEMU's control socket (QMP), as much of it as is needed here."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(30)
        self.socket.connect(str(path))
        self.lines = self.socket.makefile("r")
        self.lines.readline()
        self.ask("qmp_capabilities")

    def ask(self, command, **arguments):
        self.socket.sendall(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
        while True:
            answer = json.loads(self.lines.readline())
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                raise RuntimeError(f"QEMU refuses {command}: {answer['error']['desc']}")

    def memory(self, within=180):
        """Used and managed memory of the guest in octets, when it has stood still for 20 seconds."""
        balloon = "/machine/peripheral/balloon"
        self.ask("qom-set", path=balloon, property="guest-stats-polling-interval", value=2)
        deadline, settled, last = time.monotonic() + within, time.monotonic(), None
        while True:
            told = self.ask("qom-get", path=balloon, property="guest-stats")
            total, available = told["stats"].get("stat-total-memory", -1), told["stats"].get("stat-available-memory", -1)
            if told["last-update"] and total > 0:
                used = total - available
                if last is None or abs(used - last) > 2 << 20:
                    last, settled = used, time.monotonic()
                if time.monotonic() - settled > 20:
                    return used, total
            if time.monotonic() > deadline:
                raise AssertionError(f"the guest's memory does not stand still, or its kernel says nothing: {told}")
            time.sleep(1)


def cpu_seconds(process):
    """What the emulator has used of the processors so far: less at the mercy of who else works here than time."""
    fields = pathlib.Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / CLOCK


def answers():
    """Waits until the door of a sealed box shakes hands."""
    host, port = DOOR.split(":")
    deadline = time.monotonic() + 120
    while True:
        try:
            with socket.create_connection((host, int(port)), timeout=5) as line, ssl._create_unverified_context().wrap_socket(line):
                return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def boot(machine, kind, marks):
    """Starts it; seconds and CPU seconds to each mark."""
    began = time.monotonic()
    machine.start()
    reached = []
    for mark in marks:
        machine.console.expect(mark, within=420, refuse=["Access denied", "Kernel panic"])
        if mark in MARKS["sealed"]:
            answers()
        reached.append((time.monotonic() - began, cpu_seconds(machine.computer)))
    return reached


def measure(kind, image, boots, owner):
    folder = SCRATCH / kind
    shutil.rmtree(folder, ignore_errors=True)
    with Machine(folder, BUILD / "keys", network=TAP, devices=BALLOON) as machine:
        disk = machine.insert(image)
        if kind != "debian":
            custodians = Custodians(SCRATCH / "custodians", BUILD / "bin")
            write_seed(disk, owner.seed(keys=custodians.of_seed() if kind == "sealed" else ()))
        boot(machine, kind, [FIRST[kind]] if kind in FIRST else MARKS[kind])
        monitor = Monitor(machine.state / "qmp.socket")
        used, total = monitor.memory()
        times = []
        for _ in range(boots):
            machine.cut_power()
            times.append(boot(machine, kind, MARKS[kind]))
            print(f"{kind}: " + ", ".join(f"{mark.strip()!r} after {wall:.0f} s ({cpu:.0f} s of CPU)" for mark, (wall, cpu) in zip(MARKS[kind], times[-1])), flush=True)
    marks = {mark.strip(): {"wall": statistics.median(one[number][0] for one in times), "cpu": statistics.median(one[number][1] for one in times)}
             for number, mark in enumerate(MARKS[kind])}
    return {"memory-used": used, "memory-total": total, "marks": marks}


def compressed(image):
    """Octets of the whole disk image as zstd -19 packs it."""
    packed = subprocess.Popen(["zstd", "-19", "-T0", "-q", "-c", image], stdout=subprocess.PIPE)
    size = 0
    while block := packed.stdout.read(1 << 20):
        size += len(block)
    if packed.wait():
        raise RuntimeError(f"zstd could not pack {image}")
    return size


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--boots", type=int, default=2)
    options = parser.parse_args()
    network()
    shutil.rmtree(SCRATCH, ignore_errors=True)
    owner = Owner(SCRATCH / "owner", BUILD / "bin", configuration=BUILD / "image/postkeep.toml")
    ours = BUILD / "image.raw"
    images = {"postkeep": ours, "debian": BUILD / "debian.raw", "sealed": ours}
    result = {kind: measure(kind, image, options.boots, owner) for kind, image in images.items()}
    for kind in ("postkeep", "debian"):
        image = images[kind]
        print(f"{kind}: packing the image", flush=True)
        result[kind]["compressed"] = compressed(image)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
