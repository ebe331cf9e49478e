"""The plug is pulled at random moments: of the first boot, of mail, of an update. What was accepted is delivered, and the
box comes up. The number of cuts may be given (CUTS), and the seed of the moments (SEED), which is printed."""

import collections
import itertools
import os
import pathlib
import random
import shutil
import smtplib
import socket
import subprocess
import threading
import time
import unittest

from machine import Machine, cached
from stage import TAP, Owner, network, write_seed

BUILD = pathlib.Path("/build")
KEYS = BUILD / "keys"
SCRATCH = BUILD / "scratch"
RELEASES = BUILD / "releases"
CUTS = int(os.environ.get("CUTS", "20"))
SEED = int(os.environ.get("SEED", time.time()))
BOOT = 300
READY = "Reached target Postkeep takes mail"
FIRST_PARTITION = "Starting Partitions of this disk"
INSTALLING = "into the slot that does not run"
GOES_DOWN = "the machine starts again, to run"


class Power(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        network()

    def test_what_was_not_flushed_is_lost_with_the_power(self):
        """The disk of the other test: it must lose what a disk may lose, and keep what it has promised."""
        folder = SCRATCH / "forgetful"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        disk, line = folder / "disk.raw", folder / "disk.socket"
        disk.write_bytes(bytes(1 << 20))
        for commands, kept in ((["write -P 7 0 4k"], 0), (["write -P 7 0 4k", "flush"], 7)):
            server = cached(disk, line)
            options = [word for command in [*commands, "read 0 4k", "sleep 60000"] for word in ("-c", command)]
            client = subprocess.Popen(["stdbuf", "-o0", "qemu-io", "--cache=none", "-f", "raw", *options, f"nbd+unix:///?socket={line}"],
                                      stdout=subprocess.PIPE, text=True)
            while "read 4096/4096" not in (said := client.stdout.readline()):
                self.assertTrue(said, "qemu-io has ended")
            server.kill()
            server.wait()
            client.kill()
            client.communicate()
            self.assertEqual(disk.read_bytes()[0], kept)

    def test_what_was_accepted_survives_every_cut_and_the_box_comes_up(self):
        print(f"CUTS={CUTS} SEED={SEED}")
        chance = random.Random(SEED)
        folder = SCRATCH / "power"
        shutil.rmtree(folder, ignore_errors=True)
        owner = Owner(folder / "owner", BUILD / "bin", deadline=7200, configuration=BUILD / "image/postkeep.toml")
        in_first_boot = max(1, CUTS // 4)
        in_update = max(1, CUTS // 4)
        in_mail = CUTS - in_first_boot - in_update
        self.accepted, self.hit = [], collections.Counter()
        with Machine(folder / "machine", KEYS, network=TAP, forgetful=True) as machine:
            write_seed(machine.insert(BUILD / "image.raw", size="12G"), owner.seed())
            said = ""
            for number in range(in_first_boot):
                machine.start()
                if number % 2:
                    time.sleep(chance.uniform(15, 70))
                else:
                    # Where it matters most: from the first partition on, or what is left of it after an earlier cut.
                    machine.console.expect(FIRST_PARTITION, "Mounted Data volume", within=BOOT)
                    time.sleep(chance.uniform(0, 10))
                said += machine.console.text
                machine.cut_power()
                self.note(machine, "first boot")
            machine.start()
            machine.console.expect(READY, within=BOOT)
            # Keys are said once, when they are made: in whichever boot that was.
            owner.publish(said + machine.console.text)

            for number in range(in_mail):
                # Mail that comes in while what is there goes out, and mail that nobody takes: each for two cuts.
                if number % 4 == 0:
                    owner.close_internet()
                if number % 4 == 2:
                    owner.open_internet()
                before = len(self.accepted)
                self.feed(owner, machine, number, chance.uniform(3, 25))
                self.hit[f"mail, {'with' if owner.internet else 'without'} receivers"] += len(self.accepted) > before
                machine.start()
                machine.console.expect(READY, within=BOOT)
            if owner.internet is None:
                owner.open_internet()

            # What an update does is said by the box itself, and by what runs afterwards.
            # Two releases in turns, so that each cut hits a slot that is written, and one that holds what was good a moment ago.
            first, releases = owner.proven(), [RELEASES / name for name in ("next", "further")]
            for number in range(in_update):
                self.becomes(owner, machine, first, "update", "rollback")
                release = releases[number % len(releases)]
                applying = threading.Thread(
                    target=owner.manage, args=("update", "apply", release / "release.note"), kwargs={"check": False, "within": 900})
                applying.start()
                if number % 2:
                    time.sleep(chance.uniform(5, 120))
                else:
                    machine.console.expect(INSTALLING, within=BOOT)
                    time.sleep(chance.uniform(0, 30))
                machine.cut_power()
                self.note(machine, "update")
                # Who waits for an answer hears that the box is gone, and does not wait for ever.
                applying.join(120)
                self.assertFalse(applying.is_alive(), "postkeep waits for a box that is gone")
                machine.start()
                machine.console.expect(READY, within=2 * BOOT)
            for release in releases:
                self.becomes(owner, machine, (release / "version").read_text(), "update", "apply", release / "release.note")
            owner.wait_for(self.accepted, within=600)
            owner.close_internet()
        print(f"{CUTS} cuts: " + "; ".join(f"{what}: {count}" for what, count in sorted(self.hit.items())))
        print(f"{len(self.accepted)} messages accepted, none lost")
        self.assertGreater(len(self.accepted), in_mail, "too little mail for cuts to hit any")
        for receivers in ("with", "without"):
            self.assertTrue(in_mail < 4 or self.hit[f"mail, {receivers} receivers"], f"no cut hit mail {receivers} receivers: {self.hit}")
        self.assertGreater(sum(count for what, count in self.hit.items() if what.startswith("mail")), in_mail // 2, "too few cuts hit mail")
        for what, stages in (("first boot", (FIRST_PARTITION, "Mounted Data volume")), ("update", (INSTALLING, GOES_DOWN))):
            self.assertTrue(any(self.hit[f"{what}, after {stage!r}"] for stage in stages), f"no cut hit the {what}: {self.hit}")

    def note(self, machine, what):
        """What the power was cut in: the last of these that the console had said since the start."""
        stages = ("UEFI Secure Boot is enabled", FIRST_PARTITION, "Mounted Data volume", "Finished End of the first boot", READY, INSTALLING, GOES_DOWN)
        text = machine.console.text
        said = max(stages, key=text.rfind)
        self.hit[f"{what}, after {said!r}" if said in text else f"{what}, in the firmware"] += 1

    def becomes(self, owner, machine, wanted, *command):
        """Asks for another version until it runs and has proved itself: a box on trial does not take one, and one that starts does
        not answer."""
        deadline = time.monotonic() + 4 * BOOT
        while (running := owner.proven()) != wanted:
            self.assertLess(time.monotonic(), deadline, f"{running} runs, not {wanted}: {machine.console.text[-2000:]}")
            if running is not None:
                done = owner.manage(*command, check=False, within=900)
                print(f"update: {running} runs: {done.returncode} {(done.stdout + done.stderr).strip()[-300:]}")
            time.sleep(5)

    def feed(self, owner, machine, number, seconds):
        """Submits over one connection until the plug is pulled, so many seconds after the box let us in; only what was answered
        250 counts."""
        with owner.door() as door:

            def pull():
                machine.cut_power()
                # Nobody tells this end that the other is gone; it would wait for an answer.
                door.sock.shutdown(socket.SHUT_RDWR)

            cut = threading.Timer(seconds, pull)
            cut.start()
            try:
                for count in itertools.count(number * 10_000):
                    self.accepted.append(owner.submit(count, door=door))
            except (OSError, smtplib.SMTPException):
                cut.join()


if __name__ == "__main__":
    unittest.main(verbosity=2)
