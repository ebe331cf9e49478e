"""With whose keys an image is signed: those of a token (SoftHSM), which never are files; and what is not done in an owner's folder.

Run outside of the tools tree, as `make image` is: POSTKEEP_TREE, POSTKEEP_WORK and POSTKEEP_PROGRAMS say where things are.
"""

import hashlib
import json
import os
import pathlib
import shutil
import ssl
import subprocess
import sys
import unittest

IMAGE = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(IMAGE))
import softhsm  # noqa: E402

TREE, WORK, PROGRAMS = (pathlib.Path(os.environ[f"POSTKEEP_{name}"]) for name in ("TREE", "WORK", "PROGRAMS"))
SCRATCH = WORK / "scratch/signing"


def run(*command, **more):
    done = subprocess.run(command, capture_output=True, text=True, **more)
    assert done.returncode == 0, f"{command}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done.stdout


def build(keys, token=None):
    """`make image`, without its programs."""
    environment = {name: value for name, value in os.environ.items() if name != "TOKEN"}
    if token:
        environment["TOKEN"] = str(token)
    command = [IMAGE / "build", "--tree", TREE, "--work", WORK, "--programs", PROGRAMS, "--keys", keys, "--output", SCRATCH / "output", "--version", "0.1.0"]
    return subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


class Signing(unittest.TestCase):
    def setUp(self):
        shutil.rmtree(SCRATCH, ignore_errors=True)
        SCRATCH.mkdir(parents=True)
        self.keys, self.token = SCRATCH / "keys", SCRATCH / "token"

    def make_keys(self):
        run(PROGRAMS / "postkeep-firmware", "keys", "make", self.keys, "--owner", "Example")
        release = run(PROGRAMS / "postkeep-flash", "key", "generate", "--name", "example.com/releases", "--out", self.keys / "release.key")
        (self.keys / "release.pub").write_text(release)

    def move_into_a_token(self):
        softhsm.prepare(self.token, "/run/token")

        def manage(*words):
            inside = [str(word).replace(str(WORK), "/build") for word in words]
            run(IMAGE / "enter", TREE, WORK, "env", "--unset=OPENSSL_CONF", "softhsm2-util", *inside, env={**os.environ, "TOKEN": str(self.token)})

        softhsm.fill(manage, self.keys, ("db", "verity", "pcr"))

    def test_keys_that_are_never_files_sign_a_whole_image(self):
        self.make_keys()
        self.move_into_a_token()
        refused = build(self.keys)
        self.assertEqual(refused.returncode, 1)
        self.assertIn("the key is in a token. TOKEN=FOLDER", refused.stdout)

        made = build(self.keys, self.token)
        self.assertEqual(made.returncode, 0, made.stdout[-4000:])
        boot_file = SCRATCH / "output/postkeep_0.1.0.efi"
        listed = run(IMAGE / "enter", TREE, WORK, "sbverify", "--cert", "/build/scratch/signing/keys/db.crt", "/build/scratch/signing/output/postkeep_0.1.0.efi")
        self.assertIn("Signature verification OK", listed)
        # Status 0: the signatures of PCR 11 are those of the key in the file.
        told = json.loads(run(PROGRAMS / "postkeep-firmware", "measure", boot_file, "--json"))
        self.assertEqual([one["is_valid"] for one in told["signed"]], [True])
        # The hash of the root is signed by the key for that (systemd-repart(8): Verity=signature).
        partition = (SCRATCH / "output/postkeep_0.1.0.root-x86-64-verity-sig.raw").read_bytes().rstrip(b"\0")
        verity = ssl.PEM_cert_to_DER_cert((self.keys / "verity.crt").read_text())
        self.assertEqual(json.loads(partition)["certificateFingerprint"], hashlib.sha256(verity).hexdigest())
        # What its owner enrols, by systemd-boot or in the setup screen of the firmware, lies on the boot partition.
        boot_partition = "/build/scratch/signing/output/postkeep_0.1.0.esp.raw"
        for name in ("PK", "KEK", "db"):
            for end, wanted in (("auth", (self.keys / f"{name}.auth").read_bytes()), ("cer", ssl.PEM_cert_to_DER_cert((self.keys / f"{name}.crt").read_text()))):
                run(IMAGE / "enter", TREE, WORK, "mcopy", "-n", "-i", boot_partition, f"::/loader/keys/auto/{name}.{end}", "/build/scratch/signing/enrolled")
                self.assertEqual((SCRATCH / "enrolled").read_bytes(), wanted, f"{name}.{end}")
                (SCRATCH / "enrolled").unlink()
        self.assertEqual([str(file) for file in (WORK / "mkosi").glob("**/*.key") if "mkosi.cache" not in file.parts], [])

    def test_nothing_is_made_in_a_folder_that_was_named(self):
        refused = build(self.keys)
        self.assertEqual((refused.returncode, self.keys.exists()), (1, False))
        self.assertIn("postkeep-firmware keys make", refused.stdout)
        self.make_keys()
        (self.keys / "release.pub").unlink()
        before = sorted(self.keys.iterdir())
        refused = build(self.keys)
        self.assertEqual((refused.returncode, sorted(self.keys.iterdir())), (1, before))
        self.assertIn("whose releases shall the box take?", refused.stdout)


if __name__ == "__main__":
    unittest.main(verbosity=2)
