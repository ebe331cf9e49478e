"""The whole way, as on a server: firmware with our keys, TPM, verified root, data volume, mail out of the machine."""

import json
import pathlib
import shutil
import unittest

import nts
from machine import Machine, partitions, volume_header
from stage import TAP, Owner, network, write_seed

BUILD = pathlib.Path("/build")
IMAGE = BUILD / "image.raw"
KEYS = BUILD / "keys"
SCRATCH = BUILD / "scratch"


class TrustedBoot(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        network()

    def test_mail_is_sent_and_the_second_boot_finds_the_spool(self):
        folder = SCRATCH / "trusted"
        shutil.rmtree(folder, ignore_errors=True)
        owner = Owner(folder / "owner", BUILD / "bin", deadline=1800, configuration=BUILD / "image/postkeep.toml")
        with nts.servers(folder, TAP) as heard, Machine(folder / "machine", KEYS, network=TAP) as machine:
            disk = machine.insert(IMAGE)
            write_seed(disk, owner.seed(dns=nts.NAME_SERVER, time_servers=[nts.NAME]))
            machine.start()
            machine.console.expect("UEFI Secure Boot is enabled", within=120)
            machine.console.expect("Reached target Postkeep takes mail", within=240, refuse=["Access denied", "is corrupted", "[FAILED]"])
            # Whoever opens a volume leaves a trace in the TPM, which gives no key afterwards.
            self.assertIn("Successfully extended PCR index 15 with 'cryptsetup:postkeep-data:", machine.console.text)
            owner.publish(machine.console.text)
            owner.open_internet()
            try:
                sent = [owner.submit(number) for number in range(5)]
                arrived = owner.wait_for(sent)
                self.assertEqual({one["dkim"] for one in arrived}, {"verified"}, arrived)
                self.assertEqual({one["from"] for one in arrived} - {"10.1.0.1", "10.1.0.2"}, set())
            finally:
                owner.close_internet()
            self.gives_the_disk_to_the_data(disk)
            self.sealed_to_the_tpm(disk)
            self.tells_what_it_is(owner)
            # Its clock asks the server that the seed names, by the name server that the seed names, and believes no stranger.
            said = nts.wait_for(heard, f'Hostname in TLS extension: "{nts.NAME}"', "\nERROR")
            self.assertNotRegex(said, "<<< TLS 1.3, Handshake .*, Finished")
            # Nobody answers now: what is accepted stays in the spool.
            left = [owner.submit(number) for number in range(5, 10)]
            machine.cut_power()

            # Somebody at the rack has put another seed there: what it says of the network is gone back on once the volume is open.
            stranger = Owner(folder / "stranger", BUILD / "bin", configuration=BUILD / "image/postkeep.toml")
            write_seed(disk, stranger.seed(addresses=["10.1.0.77"]))
            machine.start()
            machine.console.expect("the seed on the boot partition is not taken", within=240, refuse=["first boot, TPM", "publish ", "[FAILED]"])
            machine.console.expect("Reached target Postkeep takes mail", within=240, refuse=["publish ", "[FAILED]"])
            # The screen is there on a serial line with nobody at its other end to answer its questions.
            machine.console.expect("fingerprint", within=120)
            owner.open_internet()
            try:
                owner.wait_for(left, within=180)
            finally:
                owner.close_internet()

    def gives_the_disk_to_the_data(self, disk):
        """All partitions have their size, and what is left is the data's: 2 GiB to boot from, and two slots."""
        sizes = [one["size"] * 512 for one in partitions(disk)]
        slot = [2 << 30, 128 << 20, 16 << 10]
        self.assertEqual(sizes[:-1], [2 << 30, *slot, *slot])
        self.assertLess(disk.stat().st_size - sum(sizes), 4 << 20)

    def sealed_to_the_tpm(self, disk):
        """The data volume opens for these Secure Boot keys, our signed kernel, and before a volume was opened; nothing else."""
        header = volume_header(disk)
        [token] = header["tokens"].values()
        self.assertEqual((token["type"], token["tpm2-pcrs"], token["tpm2-pcr-bank"]), ("systemd-tpm2", [7, 15], "sha256"))
        self.assertEqual(token["tpm2_pubkey_pcrs"], [11])
        self.assertEqual(sorted(token["keyslots"]), sorted(header["keyslots"]), "another key would open it too")

    def tells_what_it_is(self, owner):
        """By the door for management: the posture, and what the image is made of."""
        system = json.loads(owner.manage("system", "show", "--json").stdout)
        self.assertEqual(system["unknown"], [])
        self.assertEqual(system["posture"]["grade"], "A", system["posture"])
        for form, key in (("cyclonedx", "bomFormat"), ("spdx", "spdxVersion")):
            bill = json.loads(owner.manage("system", "sbom", "--format", form).stdout)
            self.assertIn(key, bill)
            self.assertIn("postkeepd", json.dumps(bill))


if __name__ == "__main__":
    unittest.main(verbosity=2)
