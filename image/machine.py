"""A virtual machine that boots as a server would: UEFI with our Secure Boot keys, a TPM, a disk, perhaps a network.

Used in the tools tree (image/enter) by image/tour and by image/tests. Software emulation only, said outright: a /dev/kvm
that opens need not run a kernel. The network is a tap device of the namespace that the caller has made; there is no
other way out.
"""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import threading
import time

from glass import Glass
from heard import Heard, TimeUp
from screen import Screen

OVMF = pathlib.Path("/usr/share/OVMF")
# How a LUKS2 header begins.
LUKS = b"LUKS\xba\xbe\0\2"
OWNER = "a3f0c1de-6f0b-4c51-9c3b-6f6f73746b70"


class Machine:
    """One machine. Its disks, firmware variables and TPM live in a folder, so that it can be booted again."""

    def __init__(self, state, keys, *, secure_boot=True, tpm=True, network=None, memory=2048, echo=False, devices=(), forgetful=False, first="disk.raw"):
        """Without `secure_boot` the firmware knows none. `forgetful`: what the machine has not flushed to its disks is lost when its power is cut, as on a disk with a cache of
        its own. The firmware looks at the disk `first` before all others."""
        self.state = pathlib.Path(state)
        self.keys = pathlib.Path(keys)
        self.secure_boot, self.tpm, self.network, self.memory, self.echo, self.devices = secure_boot, tpm, network, memory, echo, devices
        self.forgetful, self.caches, self.first = forgetful, [], first
        self.computer = self.chip = self.console = self.screen = None
        self.state.mkdir(parents=True, exist_ok=True)

    # -- what it is made of

    def disks(self):
        return sorted(self.state.glob("disk*.raw"))

    def insert(self, image, name="disk.raw", size="9G"):
        """A new disk with the image on it, as a flash leaves it. Holes stay holes."""
        disk = self.state / name
        subprocess.run(["cp", "--sparse=always", "--reflink=auto", image, disk], check=True)
        subprocess.run(["truncate", "--size", size, disk], check=True)
        return disk

    def blank(self, name, size="12G"):
        """A new disk with nothing on it."""
        disk = self.state / name
        subprocess.run(["truncate", "--size", size, disk], check=True)
        return disk

    def stick(self, label, files):
        """A file that is a stick with a FAT file system: name → file."""
        stick = self.state / f"{label}.stick"
        subprocess.run(["truncate", "--size", "40M", stick], check=True)
        subprocess.run(["mkfs.vfat", "-n", label, stick], check=True, stdout=subprocess.DEVNULL)
        for name, file in files.items():
            subprocess.run(["mcopy", "-i", stick, file, f"::{name}"], check=True)
        return stick

    def first_octets(self, name, count):
        with open(self.state / name, "rb") as disk:
            return disk.read(count)

    def firmware(self):
        variables = self.state / "variables.fd"
        if not variables.exists():
            if self.secure_boot:
                platform, exchange, signature = (self.keys / f"{name}.crt" for name in ("PK", "KEK", "db"))
                subprocess.run(
                    ["virt-fw-vars", "--input", OVMF / "OVMF_VARS_4M.fd", "--output", variables, "--set-pk", OWNER, platform,
                     "--add-kek", OWNER, exchange, "--add-db", OWNER, signature, "--secure-boot"],
                    check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                )
            else:
                shutil.copy(OVMF / "OVMF_VARS_4M.fd", variables)
        return variables

    def start_chip(self):
        folder, socket = self.state / "tpm", self.state / "tpm.socket"
        if not folder.exists():
            folder.mkdir()
            # One bank: the firmware hashes everything once for each.
            subprocess.run(
                ["swtpm_setup", "--tpm2", "--tpmstate", folder, "--pcr-banks", "sha256", "--overwrite"],
                check=True, stdout=subprocess.DEVNULL,
            )
        socket.unlink(missing_ok=True)
        self.chip = subprocess.Popen(
            ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={folder}", "--ctrl", f"type=unixio,path={socket}", "--terminate"],
            start_new_session=True,
        )
        deadline = time.monotonic() + 10
        while not socket.exists():
            if time.monotonic() > deadline:
                raise TimeUp("swtpm does not open its socket")
            time.sleep(0.05)
        return ["-chardev", f"socket,id=tpm,path={socket}", "-tpmdev", "emulator,id=tpm0,chardev=tpm", "-device", "tpm-crb,tpmdev=tpm0"]

    def drive(self, number, disk):
        """A disk as QEMU is told of it."""
        if not self.forgetful:
            return f"format=raw,file={disk}"
        line = self.state / f"{disk.stem}.socket"
        self.caches.append(cached(disk, line))
        return f"driver=raw,file.driver=nbd,file.server.type=unix,file.server.path={line}"

    # -- its life

    def start(self):
        """Power on."""
        assert self.computer is None, "it runs already"
        command = [
            "qemu-system-x86_64", "-M", "q35,smm=on", "-uuid", OWNER, "-accel", "tcg,thread=multi,tb-size=1024", "-cpu", "max", "-smp", os.environ.get("CPUS", "2"),
            "-m", str(self.memory), "-nodefaults", "-display", "none", "-serial", "stdio",
            "-qmp", f"unix:{self.state / 'qmp.socket'},server=on,wait=off",
            # Only firmware in system management mode may write its variables, where that is what Secure Boot rests on.
            "-global", f"driver=cfi.pflash01,property=secure,value={'on' if self.secure_boot else 'off'}", "-global", "ICH9-LPC.noreboot=off",
            "-drive", f"if=pflash,format=raw,unit=0,readonly=on,file={OVMF / ('OVMF_CODE_4M.secboot.fd' if self.secure_boot else 'OVMF_CODE_4M.fd')}",
            "-drive", f"if=pflash,format=raw,unit=1,file={self.firmware()}",
            "-device", "virtio-rng-pci", *self.devices,
        ]
        disks = self.disks()
        order = sorted(disks, key=lambda disk: disk.name != self.first)
        for number, disk in enumerate(disks):
            # Each in a slot of its own, so that it can be pulled out.
            command += ["-drive", f"if=none,id=disk{number},cache=none,discard=unmap,{self.drive(number, disk)}",
                        "-device", f"pcie-root-port,id=slot{number},chassis={number + 1},slot={number + 1}",
                        "-device", f"virtio-blk-pci,bus=slot{number},drive=disk{number},id=blk{number},serial={disk.stem},bootindex={order.index(disk) + 1}"]
        if self.network:
            command += ["-netdev", f"tap,id=net,ifname={self.network},script=no,downscript=no",
                        "-device", "virtio-net-pci,netdev=net,mac=52:54:00:70:6b:01,romfile="]
        if self.tpm:
            command += self.start_chip()
        self.computer = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
        self.screen = Screen(self.type_octets)
        self.console = Heard(self.computer.stdout, log=self.state / "console.log", echo=self.echo, screen=self.screen)
        return self

    def type(self, keys):
        """Keys on the serial console."""
        self.type_octets(keys.encode())

    def type_octets(self, octets):
        self.computer.stdin.write(octets)
        self.computer.stdin.flush()

    @contextlib.contextmanager
    def held(self, key):
        """A key of the serial console that somebody holds down."""
        let_go = threading.Event()

        def hold():
            while not let_go.wait(0.2):
                self.type(key)

        holding = threading.Thread(target=hold)
        holding.start()
        try:
            yield
        finally:
            let_go.set()
            holding.join()

    def pull_out(self, number):
        """Takes a disk out of the running machine."""
        self.ask("device_del", id=f"blk{number}")

    def look(self):
        """What stands on the screen of a machine with a `VGA` among its devices."""
        picture = self.state / "screen.ppm"
        self.ask("screendump", filename=str(picture))
        return Glass(picture.read_bytes())

    def dump_memory(self, file):
        """All that stands in the memory of the running machine."""
        self.ask("dump-guest-memory", within=300, paging=False, protocol=f"file:{file}")

    def ask(self, command, within=30, **arguments):
        """QEMU, of the machine that runs."""
        with socket.socket(socket.AF_UNIX) as line:
            line.settimeout(within)
            line.connect(str(self.state / "qmp.socket"))
            with line.makefile("rw") as words:
                # The greeting; then what it says to each command.
                words.readline()
                for one in ({"execute": "qmp_capabilities"}, {"execute": command, "arguments": arguments}):
                    words.write(json.dumps(one) + "\n")
                    words.flush()
                    while "return" not in (said := json.loads(words.readline())):
                        assert "error" not in said, said

    def cut_power(self):
        """As if the plug were pulled: the process is killed; what it had not flushed is lost where the disks are forgetful."""
        # First the caches: nothing that QEMU does when it dies reaches a disk.
        self.drop_caches()
        self.stop(signal.SIGKILL)

    def off(self):
        self.stop(signal.SIGTERM)

    def wait_off(self, within=120):
        """Waits until the machine has gone off by itself."""
        self.computer.wait(within)
        self.stop(signal.SIGTERM)

    def stop(self, how):
        for process in (self.computer, self.chip):
            if process is not None and process.poll() is None:
                process.send_signal(how if process is self.computer else signal.SIGTERM)
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
        self.computer = self.chip = None
        self.drop_caches()

    def drop_caches(self):
        for cache in self.caches:
            cache.kill()
            cache.wait()
        self.caches = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.off()


def cached(disk, line):
    """Serves a disk on the socket `line` out of a cache in memory: only a flush brings what was written to the disk."""
    line.unlink(missing_ok=True)
    server = subprocess.Popen(
        ["nbdkit", "--foreground", "--exit-with-parent", "--unix", line, "--filter=cache", "file", disk, "cache=writeback"],
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "TMPDIR": str(disk.parent)}, stdin=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 10
    while not line.exists():
        if server.poll() is not None or time.monotonic() > deadline:
            raise TimeUp("nbdkit does not open its socket")
        time.sleep(0.05)
    return server


def partitions(disk):
    """Those of a disk, as sfdisk tells of them, in sectors of 512 octets."""
    return json.loads(subprocess.run(["sfdisk", "--json", disk], check=True, capture_output=True).stdout)["partitiontable"]["partitions"]


def volume_header(disk):
    """What the LUKS2 header of the data volume says in JSON, read from the disk."""
    part = next(one for one in partitions(disk) if one.get("name") == "postkeep-data")
    with open(disk, "rb") as file:
        file.seek(part["start"] * 512)
        octets = file.read(1 << 20)
    assert octets[:8] == LUKS, octets[:8]
    return luks_json(octets)


def luks_json(octets):
    """What a LUKS2 header says that begins `octets` (LUKS2 On-Disk Format Specification 1.1.1, 2.1): its size stands after magic and version,
    JSON after 4096 octets."""
    size = int.from_bytes(octets[8:16])
    return json.loads(octets[4096:size].rstrip(b"\0"))
