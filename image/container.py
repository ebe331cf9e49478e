"""The image's root as a container: the same files, started by systemd-nspawn in a second, without firmware, kernel and
disk. What it cannot have (boot partition, TPM, data volume) is replaced in an overlay that is thrown away.

Used in the tools tree (image/enter) by image/tests.
"""

import concurrent.futures
import os
import pathlib
import signal
import subprocess
import tempfile

from heard import Heard

DATA_MOUNT = """[Unit]
Description=Data volume
DefaultDependencies=no
After=var.mount
[Mount]
What=/srv/data
Where=/var/lib/postkeep
Type=none
Options=bind
[Install]
WantedBy=multi-user.target
"""


class Container:
    """One container from a root partition's file. `extra` lays files over it: path in the image → text."""

    def __init__(self, root, extra=None, network=None):
        self.root = pathlib.Path(root)
        self.network = network
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="postkeep-container-"))
        self.process = self.console = None
        self.lower, self.upper, self.merged = (self.folder / name for name in ("lower", "upper", "merged"))
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", self.folder], check=True)
        for folder in (self.lower, self.upper / "files", self.upper / "work", self.merged):
            folder.mkdir(parents=True)
        subprocess.run(["mount", "-t", "erofs", "-o", "loop,ro", self.root, self.lower], check=True)
        subprocess.run(
            ["mount", "-t", "overlay", "overlay", "-o", f"lowerdir={self.lower},upperdir={self.upper / 'files'},workdir={self.upper / 'work'}", self.merged],
            check=True,
        )
        self.lay("etc/crypttab", "")
        self.lay("etc/systemd/system/var-lib-postkeep.mount", DATA_MOUNT)
        for unit in ("efi.mount", "postkeep-partitions.service"):
            self.mask(unit)
        (self.merged / "srv/data").mkdir(parents=True, exist_ok=True)
        for path, text in (extra or {}).items():
            self.lay(path, text)

    def lay(self, path, text):
        target = self.merged / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)

    def mask(self, unit):
        target = self.merged / "etc/systemd/system" / unit
        target.unlink(missing_ok=True)
        target.symlink_to("/dev/null")

    def start(self):
        # The cgroup tree of version 2 that the container's systemd wants, in this mount namespace alone.
        if not pathlib.Path("/sys/fs/cgroup/cgroup.controllers").exists():
            subprocess.run(["mount", "-t", "cgroup2", "cgroup2", "/sys/fs/cgroup"], check=True)
        self.process = subprocess.Popen(
            ["systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--private-network", "--timezone=off", "--resolv-conf=off",
             f"--machine={self.folder.name.replace('_', '0')}", "--hostname=container", "--uuid=a3f0c1de6f0b4c519c3b6f6f73746b71", "-D", self.merged, "--console=read-only", "-b", "systemd.log_target=console"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        self.console = Heard(self.process.stdout)
        if self.network:
            self.console.expect("Welcome to", within=60)
            # systemd-nspawn would ask udev about it, and there is none here.
            subprocess.run(["ip", "link", "set", self.network, "netns", self.leader()], check=True)
        return self

    def leader(self):
        """Its process 1, as we see it."""
        children = pathlib.Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return children[0]

    def inside(self, *path):
        """A path in it, as we see it."""
        return pathlib.Path("/proc", self.leader(), "root").joinpath(*path)

    def run(self, *command, check=True):
        """Runs a program of the image in it."""
        return subprocess.run(
            ["nsenter", "--target", self.leader(), "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", *command],
            check=check, capture_output=True, text=True,
        )

    def failed(self):
        """The units that have failed; of each how its processes ended, and what systemd has said of it at the console."""
        units = self.run("systemctl", "list-units", "--failed", "--plain", "--no-legend", "--no-pager").stdout.splitlines()
        show = lambda name: self.run("systemctl", "show", "--property=Description,Result,ExecStart,ExecStop", name).stdout
        said = lambda name: "".join(f"{line}\n" for line in self.console.text.splitlines() if name in line)
        return {name: show(name) + said(name) for name in (line.split()[0] for line in units)}

    def run_ours(self, *command, check=True):
        """Runs a program of the tools tree in its network."""
        return subprocess.run(["nsenter", "--target", self.leader(), "--net", *command], check=check, capture_output=True, text=True)

    def in_its_network(self, make):
        """What `make` gives when a thread of ours calls it in the box's network: a socket stays in the network it was made in."""
        def enter():
            with open(f"/proc/{self.leader()}/ns/net") as namespace:
                os.setns(namespace.fileno(), os.CLONE_NEWNET)
            return make()

        # The thread ends with this; no other thread changes its network.
        with concurrent.futures.ThreadPoolExecutor(1) as thread:
            return thread.submit(enter).result()

    def close(self):
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
        for path in (self.merged, self.lower, self.folder):
            subprocess.run(["umount", "--lazy", path], check=False)
        self.folder.rmdir()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
