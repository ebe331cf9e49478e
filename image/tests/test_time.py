"""The clock of a machine that stood still: a time server that proves its name sets it, though every certificate is of its future."""

import datetime
import json
import pathlib
import shutil
import time
import unittest

import nts
from machine import Machine
from stage import TAP, Owner, network, write_seed

BUILD = pathlib.Path("/build")
SCRATCH = BUILD / "scratch/time"
# Made by scripts/image, which lays the certificate into the image of this test.
AUTHORITY = tuple(BUILD / f"time/authority.{end}" for end in ("key", "crt"))
BEHIND = datetime.timedelta(days=200)


class Time(unittest.TestCase):
    def behind(self, owner):
        """How far the box's clock is behind ours."""
        system = json.loads(owner.manage("system", "show", "--json").stdout)
        theirs = datetime.datetime.fromisoformat(system["booted"]) + datetime.timedelta(seconds=system["uptime-seconds"])
        return datetime.datetime.now(datetime.UTC) - theirs

    def test_a_clock_that_stood_still_is_set_by_a_server_that_proves_its_name(self):
        network()
        shutil.rmtree(SCRATCH, ignore_errors=True)
        owner = Owner(SCRATCH / "owner", BUILD / "bin", deadline=1800, configuration=BUILD / "image/postkeep.toml")
        base = (datetime.datetime.now(datetime.UTC) - BEHIND).strftime("%Y-%m-%dT%H:%M:%S")
        with nts.names(SCRATCH, TAP), Machine(SCRATCH / "machine", BUILD / "keys", network=TAP, devices=["-rtc", f"base={base}"]) as machine:
            write_seed(machine.insert(BUILD / "time.raw"), owner.seed(dns=nts.NAME_SERVER, time_servers=[nts.NAME]))
            machine.start()
            machine.console.expect("Reached target Postkeep takes mail", within=240)
            owner.publish(machine.console.text)
            self.assertGreater(self.behind(owner), BEHIND - datetime.timedelta(days=1), "nobody has told it the time yet")
            with nts.time_server(SCRATCH, AUTHORITY, BUILD / "root.raw"):
                deadline = time.monotonic() + 400
                while abs(self.behind(owner)) > datetime.timedelta(seconds=10):
                    self.assertLess(time.monotonic(), deadline, "its clock was not set")
                    time.sleep(5)


if __name__ == "__main__":
    unittest.main(verbosity=2)
