"""The lines that docs/operate/flash.md gives to whoever flashes with dd, run as they stand there, and the disk that they make, started."""

import pathlib
import re
import shutil
import subprocess
import tomllib
import unittest

from machine import Machine
from stage import TAP, Owner, network, run, write_seed

BUILD = pathlib.Path("/build")
KEYS = BUILD / "keys"
SCRATCH = BUILD / "scratch"
RELEASE = BUILD / "releases/first"
READY = "Reached target Postkeep takes mail"
PAGE = (BUILD / "image/flash.md").read_text()
# What the page calls the disk, and the release.
DISK, IMAGE = "/dev/nvme0n1", "postkeep_0.3.0.raw.zst"


def lines():
    """The commands of the page, without what is said about them; of two ways to do the same, the one of util-linux."""
    section = PAGE[PAGE.index("## By hand, with dd"):].split("\n## ")[0]
    commands = [line.removeprefix("    # ") for line in section.splitlines() if line.startswith("    # ")]
    return [other[1] if (other := re.search(r"# or: (.*)$", line)) else re.sub(r"\s+# .*$", "", line).strip() for line in commands]


class ByHand(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        network()

    def test_what_the_page_says_makes_a_disk_that_starts_and_knows_its_owner(self):
        folder = SCRATCH / "by-hand"
        shutil.rmtree(folder, ignore_errors=True)
        owner = Owner(folder / "owner", BUILD / "bin", configuration=BUILD / "image/postkeep.toml")
        [image] = (one for one in tomllib.loads((RELEASE / "release.note").read_text().split("\n\n—")[0])["file"] if one["role"] == "disk-image")
        commands = lines()
        self.assertEqual([line.split()[0] for line in commands],
                         ["sha256sum", "lsblk", "wipefs", "zstd", "size=…", "head", "sfdisk", "partprobe", "mkdir"])
        with Machine(folder / "machine", KEYS, network=TAP) as machine:
            machine.blank("disk.raw", size="12G")
            disk = machine.state / "disk.raw"
            with open(disk, "r+b") as file:
                # Somebody else's, also where the image has nothing.
                for at in range(0, 5 << 30, 512 << 20):
                    file.seek(at)
                    file.write(b"old data" * 4096)
            loop = run("losetup", "--find", "--show", disk).strip()
            self.addCleanup(subprocess.run, ["losetup", "--detach", loop], capture_output=True)
            # The kernel of this machine may know neither FAT nor partitions of such a disk: mtools does what the last two lines do.
            said = ""
            for line in commands[:-2]:
                line = line.replace(DISK, loop).replace(IMAGE, image["name"]).replace("size=…", f"size={image['expanded-size']}")
                line = line.replace("$size", str(image["expanded-size"]))
                said += subprocess.run(["bash", "-o", "pipefail", "-c", line], cwd=RELEASE, check=True, capture_output=True, text=True).stdout
            self.assertIn(image["sha256"], said)
            self.assertIn(image["expanded-sha256"], said)
            run("losetup", "--detach", loop)
            write_seed(disk, owner.seed())
            machine.start()
            machine.console.expect("UEFI Secure Boot is enabled", within=120)
            machine.console.expect(READY, within=300, refuse=["is corrupted", "[FAILED]"])
            owner.publish(machine.console.text)
            owner.open_internet()
            try:
                self.assertEqual(len(owner.wait_for([owner.submit(0)])), 1)
            finally:
                owner.close_internet()


if __name__ == "__main__":
    unittest.main()
