"""The image's root in a container: what is in it, what runs, who may do what, what answers from outside."""

import hashlib
import json
import pathlib
import re
import select
import shutil
import socket
import subprocess
import unittest

from container import Container
from stage import BOX, BOX_END, Owner, network, run

BUILD = pathlib.Path("/build")
ROOT = BUILD / "root.raw"
# docs/operate/image.md lists them: mail, submission, HTTPS, management.
PORTS = {25, 443, 587, 8443}
# The page that promises what the journal says.
EVENTS = dict(re.findall(r"^\| `([a-z-]+)` \| `([0-9a-f]{32})` \|", (BUILD / "image/journal.md").read_text(), re.M))


class WhatIsInIt(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.root = pathlib.Path("/tmp/root")
        cls.root.mkdir(exist_ok=True)
        subprocess.run(["mount", "-t", "erofs", "-o", "loop,ro", ROOT, cls.root], check=True)

    @classmethod
    def tearDownClass(cls):
        subprocess.run(["umount", cls.root], check=True)

    def files(self):
        return [path for path in self.root.rglob("*") if path.is_file() and not path.is_symlink()]

    def test_no_file_gives_rights_to_who_starts_it(self):
        self.assertEqual([path for path in self.files() if path.stat().st_mode & 0o6000], [])

    def test_there_is_no_shell_and_no_interpreter(self):
        names = re.compile(r"^(ba|da|z|k|c|tc|fi|a)?sh$|^busybox|^(python|perl|ruby|lua|tclsh|awk|gawk|mawk|sed|php|node|guile|bc|dc|gdb|expect)[0-9.]*$")
        programs = [path for path in self.root.rglob("*") if names.match(path.name) and not path.is_dir() and path.parent.name in ("bin", "sbin")]
        self.assertEqual(programs, [])
        scripts = [path for path in self.files() if path.stat().st_mode & 0o111 and path.read_bytes()[:2] == b"#!"]
        self.assertEqual(scripts, [])

    def test_there_is_no_package_manager_and_no_login(self):
        names = {"apt", "apt-get", "dpkg", "login", "agetty", "getty", "su", "sudo", "sulogin", "sshd", "dropbear"}
        self.assertEqual([path for path in self.root.rglob("*") if path.name in names and not path.is_dir()], [])
        shadow = (self.root / "etc/shadow").read_text().splitlines()
        self.assertEqual([line for line in shadow if line.split(":")[1] not in ("*", "!", "!*", "!!", "!unprovisioned")], [])

    def test_only_the_programs_that_are_listed_are_there(self):
        listed = {line.split()[0] for line in (BUILD / "image/programs").read_text().splitlines() if line.strip() and line[0] != "#"}
        found = {path.name for folder in ("usr/bin", "usr/sbin") for path in (self.root / folder).iterdir()}
        self.assertEqual({name for name in found - listed if not name.startswith("postkeep")}, set())

    def test_the_bill_of_materials_is_in_it(self):
        bills = {name: json.loads((self.root / f"usr/share/postkeep/sbom/{name}.json").read_text()) for name in ("cyclonedx", "spdx")}
        listed = {one["name"]: one for one in bills["cyclonedx"]["components"]}
        program = (self.root / "usr/bin/postkeepd").read_bytes()
        self.assertEqual(listed["postkeepd"]["hashes"][0]["content"], hashlib.sha256(program).hexdigest())
        self.assertEqual(bills["spdx"]["spdxVersion"], "SPDX-2.3")

    def test_the_copyright_file_of_each_package_that_is_in_it_is_there(self):
        bill = json.loads((self.root / "usr/share/postkeep/sbom/cyclonedx.json").read_text())
        told = [{one["name"]: one["value"] for one in component.get("properties", [])} for component in bill["components"]]
        wanted = [one["postkeep:notice"] for one in told if "root" in one.get("postkeep:places", "")]
        self.assertGreater(len(wanted), 50)
        self.assertEqual([path for path in wanted if not (self.root / path.lstrip("/")).is_file()], [])

    def test_units_of_ours_are_confined(self):
        loose = {}
        for unit in sorted((self.root / "usr/lib/systemd/system").glob("postkeep*.service")):
            told = run("systemd-analyze", f"--root={self.root}", "--offline=true", "--no-pager", "security", unit.name)
            loose[unit.name] = float(re.search(r"exposure level for \S+: ([0-9.]+)", told).group(1))
        self.assertGreater(len(loose), 5)
        self.assertEqual({name: level for name, level in loose.items() if level > 2.0}, {})


class WhatRuns(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        network(container=True)
        folder = BUILD / "scratch/container"
        shutil.rmtree(folder, ignore_errors=True)
        cls.owner = Owner(folder / "owner", BUILD / "bin", configuration=BUILD / "image/postkeep.toml")
        cls.box = Container(ROOT, {"efi/postkeep/seed": cls.owner.seed(interface=f'name = "{BOX_END}"').read_text()}, network=BOX_END).start()
        cls.box.console.expect("Reached target Postkeep takes mail", within=60)
        cls.box.console.expect("Reached target Multi-User System", within=60)
        cls.owner.publish(cls.box.console.text)

    @classmethod
    def tearDownClass(cls):
        cls.box.close()

    def test_no_unit_has_failed(self):
        failed = self.box.run("systemctl", "list-units", "--failed", "--plain", "--no-legend", "--no-pager").stdout
        self.assertEqual(failed.strip(), "")

    def test_the_mail_core_is_nobody_with_one_capability(self):
        process = self.box.run("systemctl", "show", "--property=MainPID", "--value", "postkeepd.service").stdout.strip()
        status = self.box.inside("proc", process, "status").read_text()
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        self.assertEqual(fields["Uid"].split(), ["990"] * 4)
        net_bind_service = 1 << 10
        for kind in ("CapEff", "CapPrm", "CapBnd", "CapAmb"):
            self.assertEqual(int(fields[kind], 16), net_bind_service, kind)
        self.assertEqual(fields["NoNewPrivs"], "1")
        self.assertEqual(fields["Seccomp"], "2")

    def test_from_outside_exactly_the_documented_ports_answer(self):
        self.assertEqual(open_ports(BOX), PORTS)

    def test_rules_are_loaded_before_the_first_address(self):
        rules = self.box.run_ours("nft", "list", "ruleset").stdout
        for chain in ("input", "forward", "output"):
            self.assertRegex(rules, rf"hook {chain} priority filter; policy drop;")
        order = self.box.run("systemctl", "show", "--property=After,Requires", "systemd-networkd.service").stdout
        self.assertEqual(order.count("nftables.service"), 2)

    def test_nobody_else_may_connect_out(self):
        # As another user in its network, to a port that the mail core uses.
        tried = self.box.run_ours("setpriv", "--reuid=997", "--regid=997", "--clear-groups", "python3", "-c",
                                  "import socket; socket.create_connection(('10.0.0.1', 25), 2)", check=False)
        self.assertNotEqual(tried.returncode, 0)
        self.assertRegex(tried.stderr, "timed out|TimeoutError|Operation not permitted")

    def test_its_owner_manages_it_over_the_network_and_readers_look(self):
        self.assertEqual(json.loads(self.owner.manage("status", "--json").stdout)["pid"], int(self.main_process()))
        self.owner.manage("queue", "pause", "--domain", "paused.test")
        shown = self.owner.manage("queue", "show", "--json", role="readers").stdout
        self.assertIn("paused.test", shown)
        refused = self.owner.manage("queue", "resume", role="readers", check=False)
        self.assertEqual((refused.returncode, "may only look" in refused.stderr), (1, True), refused.stderr)
        self.owner.manage("queue", "resume")
        self.assertNotIn("paused.test", self.owner.manage("queue", "show", "--json").stdout)

    def test_it_tells_what_it_is_and_never_more_than_is_true(self):
        told = json.loads(self.owner.manage("system", "show", "--json").stdout)
        release = dict(line.split("=", 1) for line in self.box.inside("etc/os-release").read_text().splitlines() if "=" in line)
        self.assertEqual(told["image"], release["IMAGE_VERSION"].strip('"'))
        # There is no firmware and no TPM in a container: the worst grade, and it is remembered on the data volume.
        self.assertEqual(told["posture"]["grade"], "D")
        kept = json.loads((self.box.merged / "srv/data/posture/history.json").read_text())
        self.assertEqual(told["history"], kept)
        self.assertEqual(kept["worst"]["grade"], "D")
        # There are no disks either, and nobody who watches over them.
        self.assertEqual(["disks" in why for why in told["unknown"]], [True])

    def test_strangers_do_not_get_in(self):
        stranger = self.owner.folder / "stranger.pem"
        if not stranger.exists():
            run(BUILD / "bin/postkeep", "api", "identity", "new", "--output", stranger)
        self.owner.identities["nobody"] = (stranger, "")
        refused = self.owner.manage("status", role="nobody", check=False)
        self.assertEqual((refused.returncode, "does not let this identity in" in refused.stderr), (3, True), refused.stderr)
        self.assertTrue(self.journal("api-refused"))

    def test_the_journal_on_the_data_volume_has_events_by_their_documented_ids(self):
        (network,), (seed,), (posture,) = (self.journal(name) for name in ("network-set", "seed-taken", "posture-measured"))
        self.assertEqual((network["OWNER"], seed["OWNER"]), ("owner.example/box", "owner.example/box"))
        self.assertEqual((posture["GRADE"], posture["WORST_GRADE"]), ("D", "D"))
        made = {(one["PURPOSE"], one["NAME"]) for one in self.journal("key-made")}
        self.assertIn(("api", self.owner.fingerprint), made)
        self.assertEqual({purpose for purpose, _ in made}, {"api", "dkim", "tls"})
        ready = self.journal("ready")[-1]
        self.assertEqual((ready["_UID"], ready["POSTKEEP_EVENT"], ":25" in ready["DOORS"]), ("990", "ready", True))
        self.owner.manage("queue", "pause", "--domain", "journal.test")
        self.owner.manage("queue", "resume", "--domain", "journal.test")
        changed = [one for one in self.journal("queue-changed") if "journal.test" in one["SELECTOR"]]
        self.assertEqual([one["ACTION"] for one in changed], ["pause", "resume"])
        self.assertTrue(changed[0]["ACTOR"].endswith("(client client-1)"), changed[0])

    def main_process(self):
        return self.box.run("systemctl", "show", "--property=MainPID", "--value", "postkeepd.service").stdout.strip()

    def journal(self, name):
        """What the journal on the data volume has of an event, read with the tools tree's journalctl."""
        self.box.run("journalctl", "--sync")
        told = run("journalctl", "--quiet", "-D", self.box.merged / "srv/data/journal", "--output=json", f"MESSAGE_ID={EVENTS[name]}")
        return [json.loads(line) for line in told.splitlines()]

    def test_a_campaign_goes_through(self):
        status, text = self.owner.campaign(300)
        self.assertEqual(status, 0, text)


def open_ports(address):
    """The TCP ports that take a connection; asked all at once, a thousand at a time."""
    found = set()
    for first in range(1, 65536, 1000):
        waiting = {}
        for port in range(first, min(first + 1000, 65536)):
            one = socket.socket()
            one.setblocking(False)
            one.connect_ex((address, port))
            waiting[one.fileno()] = (one, port)
        poll = select.poll()
        for number in waiting:
            poll.register(number, select.POLLOUT)
        while events := poll.poll(300):
            for number, _ in events:
                one, port = waiting.pop(number)
                poll.unregister(number)
                if one.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
                    found.add(port)
                one.close()
        for one, _ in waiting.values():
            one.close()
    return found


if __name__ == "__main__":
    unittest.main(verbosity=2)
