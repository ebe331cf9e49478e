"""Keys that never are files: the tools that sign a boot file find them in a token, by the words that `postkeep-firmware keys
arguments` has for them. The token is SoftHSM's; the provider is Debian's pkcs11-provider, as for a real one.
"""

import json
import os
import pathlib
import shutil
import subprocess
import tomllib
import unittest

import softhsm

BUILD = pathlib.Path("/build")
SCRATCH = BUILD / "scratch/tokens"
FIRMWARE = BUILD / "bin/postkeep-firmware"


def run(*command, **more):
    done = subprocess.run(command, capture_output=True, text=True, **more)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


class Tokens(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        shutil.rmtree(SCRATCH, ignore_errors=True)
        SCRATCH.mkdir(parents=True)
        cls.keys = SCRATCH / "keys"
        run(FIRMWARE, "keys", "make", cls.keys, "--owner", "Example")
        place = SCRATCH / "token"
        softhsm.prepare(place, place)
        found = {**os.environ, "SOFTHSM2_CONF": str(place / "softhsm2.conf")}
        cls.environment = {**found, "OPENSSL_CONF": str(place / "openssl.cnf")}
        softhsm.fill(lambda *words: run("softhsm2-util", *words, env=found), cls.keys, ("db", "verity", "pcr"))

    def arguments(self, tool):
        return run(FIRMWARE, "keys", "arguments", self.keys / "keys.toml", tool).splitlines()

    def part(self, name):
        """A section of the release's boot file."""
        told = json.loads(subprocess.run([FIRMWARE, "measure", BUILD / "boot-file.efi", "--json"], capture_output=True).stdout)
        [(begin, size)] = [(one["offset"], one["size"]) for one in told["sections"] if one["name"] == name]
        file = SCRATCH / name.lstrip(".")
        with open(BUILD / "boot-file.efi", "rb") as source:
            source.seek(begin)
            file.write_bytes(source.read(size))
        return file

    def test_a_boot_loader_is_signed(self):
        loader, signed = "/usr/lib/systemd/boot/efi/systemd-bootx64.efi", SCRATCH / "loader.efi"
        run("/usr/lib/systemd/systemd-sbsign", "sign", *self.arguments("sbsign"), f"--output={signed}", loader, env=self.environment)
        self.assertIn("Signature verification OK", run("sbverify", "--cert", self.keys / "db.crt", signed))

    def test_a_boot_file_is_signed_and_its_measurements_too(self):
        made = SCRATCH / "boot.efi"
        run("ukify", "build", f"--linux={self.part('.linux')}", f"--initrd={self.part('.osrel')}", "--cmdline=quiet", *self.arguments("ukify"),
            "--pcr-banks=sha256", "--phases=enter-initrd:leave-initrd", "--no-sign-kernel", f"--output={made}", env=self.environment)
        self.assertIn("Signature verification OK", run("sbverify", "--cert", self.keys / "db.crt", made))
        # Status 0: every signature of PCR 11 in it is right, by the program that checks releases.
        told = json.loads(run(FIRMWARE, "measure", made, "--json"))
        self.assertEqual([(one["phase"], one["is_valid"]) for one in told["signed"]], [("enter-initrd:leave-initrd", True)])

    def test_mkosi_is_told_the_same(self):
        lines = dict(line.split("=", 1) for line in self.arguments("mkosi"))
        for role, table in (("SecureBoot", "signature"), ("Verity", "verity"), ("SignExpectedPcr", "measurement")):
            described = tomllib.loads((self.keys / "keys.toml").read_text())[table]
            self.assertEqual((lines[f"{role}Key"], lines[f"{role}KeySource"]), (described["key"], "provider:pkcs11"))


if __name__ == "__main__":
    unittest.main(verbosity=2)
