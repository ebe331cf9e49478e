"""The image's root in a container: what is in it and in its initrd, what runs, who may do what, what answers from outside."""

import collections
import errno
import hashlib
import json
import os
import pathlib
import re
import select
import shutil
import socket
import subprocess
import tempfile
import time
import unittest

from container import Container
from stage import BOX, BOX_END, HERE, MAC, TAP, Owner, network, run
from unpacked import unpack

BUILD = pathlib.Path("/build")
ROOT = BUILD / "root.raw"
UNITS = "usr/lib/systemd/system"
# The page that promises which ports answer: "TCP 25, … and 8443 where …; echo, …".
ANSWERS = re.search(r"^## What answers from outside\n\nTCP ([^;]+);", (BUILD / "image/image.md").read_text(), re.M).group(1)
DOCUMENTED = {int(number) for number in re.findall(r"\b\d+\b", ANSWERS)}
# Where we listen although nobody may get there.
UNDOCUMENTED = {1, 22, 53, 2525, 8025, 8445, 9999}
# Addresses of IPv6 for the box and for us, of which the rehearsal has none.
BOX6, HERE6 = "fd00:706b::1", "fd00:706b::2"
KNOCK = b"is anybody there?"
# The page that promises what the journal says.
EVENTS = dict(re.findall(r"^\| `([a-z-]+)` \| `([0-9a-f]{32})` \|", (BUILD / "image/journal.md").read_text(), re.M))
# Every service of ours is a user without rights and has one capability at most, but for those in the page's table: what is left to
# them of root's capabilities, and why they are root.
ROOT_NEVERTHELESS = {
    unit: (capabilities.replace("`", "").replace(",", "").replace("none", ""), why)
    for unit, capabilities, why in re.findall(r"^\| `(postkeep-[a-z@-]+\.service)` \| ([^|]+) \| ([^|]+) \|$", (BUILD / "image/image.md").read_text(), re.M)
}
# Network and storage drivers whose firmware is not in the image, and why: all are of machines that nobody rents out any more, or work
# without it.
NO_FIRMWARE = {
    "acenic": "gigabit cards of 1998", "advansys": "SCSI cards of the 1990s", "aic94xx": "SAS of 2005", "cassini": "Sun's cards of 2001",
    "csiostor": "storage over Chelsio's cards: none of ours", "cxgb3": "Chelsio T3 of 2007", "cxgb4": "Chelsio T4 to T6: in no rented server that we know",
    "isci": "has it in flash", "liquidio": "Cavium's programmable cards",
    "myri10ge": "Myricom of 2006", "netxen_nic": "NetXen of 2006, has it in flash", "nfp": "Netronome's programmable cards", "pcnet_cs": "PCMCIA",
    "qlcnic": "QLogic of 2010, has it in flash", "smc91c92_cs": "PCMCIA", "starfire": "100 Mbit/s of 1999", "tehuti": "cards of 2007",
    "tg3": "needs it for chips of before 2005 and of Apple's machines only", "typhoon": "3Com of 1999", "wd719x": "SCSI of the 1990s",
}
# What systemd starts for a unit as root outside of its sandbox.
OUTSIDE_OF_SANDBOX = {
    # Only root may signal through systemd; a signal that reaches the main process alone.
    ("postkeepd.service", "+systemctl kill --signal=HUP --kill-whom=main postkeepd.service"),
}
# Programs of ours in units that are systemd's, and so outside of the sandbox of ours, and why.
IN_UNITS_OF_OTHERS = {
    ("systemd-cryptsetup@.service", "postkeep-system volume"): "becomes systemd-cryptsetup, which needs the rights of root; it looks at the volume's header first",
}
Rights = collections.namedtuple("Rights", "user bounding ambient outside")


def rights(units, name):
    """What a unit's file and its drop-ins, in the order in which systemd reads them, let its processes be and do. `bounding` is
    None where nothing is taken away."""
    stem, kind = name.removesuffix(".service"), ".service.d"
    prefixes = [stem[:at + 1] for at, letter in enumerate(stem.partition("@")[0]) if letter == "-"]
    # Of drop-ins with one name the one nearest to the unit counts.
    drop_ins = {file.name: file for prefix in (*prefixes, stem) for file in (units / (prefix + kind)).glob("*.conf")}
    found = {"User": "root", "CapabilityBoundingSet": None, "AmbientCapabilities": set()}
    outside = []
    for file in (units / name, *(drop_ins[one] for one in sorted(drop_ins))):
        for line in file.read_text().splitlines():
            key, _, value = line.partition("=")
            if key == "User":
                found[key] = value or "root"
            elif key == "DynamicUser" and value == "yes":
                found["User"] = "one of its own"
            elif key in found:
                assert "~" not in value, f"{file}: {line}: what is left, not what is taken away, can be read"
                found[key] = (found[key] or set()) | set(value.split()) if value else set()
            elif key.startswith("Exec") and re.match(r"[-@:|]*[+!]", value):
                outside.append(value)
    return Rights(found["User"], found["CapabilityBoundingSet"], found["AmbientCapabilities"], outside)


class WhatIsInIt(unittest.TestCase):
    """What ships: the root, the initrd in the boot file, and what the installer lays over that."""

    maxDiff = None

    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(tempfile.mkdtemp())
        cls.root, cls.initrd, cls.installer = cls.folder / "root", cls.folder / "initrd", cls.folder / "installer"
        cls.trees = (cls.root, cls.initrd)
        for tree in cls.trees:
            tree.mkdir()
        subprocess.run(["mount", "-t", "erofs", "-o", "loop,ro", ROOT, cls.root], check=True)
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        cls.addClassCleanup(subprocess.run, ["umount", cls.root], check=True)
        unpack(BUILD / "boot-file.efi", BUILD / "bin/postkeep-firmware", cls.initrd)
        # The installer's medium: what is laid over the initrd, and the initrd's units below it.
        shutil.copytree(BUILD / "image/installer/root", cls.installer, symlinks=True)
        shutil.copytree(cls.initrd / "usr/lib/systemd", cls.installer / "usr/lib/systemd", symlinks=True, dirs_exist_ok=True)
        for masked in (cls.installer / "etc/systemd/system").iterdir():
            (cls.installer / UNITS / masked.name).unlink()
        cls.trees += (cls.installer,)

    def names(self):
        """All that can be started by a name."""
        return [path for tree in self.trees for path in tree.rglob("*") if path.is_symlink() or not path.is_dir()]

    def files(self):
        return [path for path in self.names() if path.is_file() and not path.is_symlink()]

    def units(self):
        return [path for tree in self.trees for path in sorted((tree / UNITS).glob("postkeep*.service"))]

    def test_no_file_gives_rights_to_who_starts_it(self):
        self.assertEqual([path for path in self.files() if path.stat().st_mode & 0o6000], [])
        # The archives of an initrd have no place for capabilities; it is asked for like the root all the same.
        self.assertEqual([path for path in self.files() if "security.capability" in os.listxattr(path)], [])

    def test_there_is_no_shell_and_no_interpreter(self):
        # Anywhere: initramfs-tools brings a shell outside of all folders for programs. Nothing else has such a name today; `ed`,
        # `bc` and `dc` have no versions here because certificates are called by their hash (ed858448.0).
        names = re.compile(r"^(ba|da|z|k|mk|pdk|c|tc|fi|a|r|rba|po)?sh(\.distrib)?$|^(busy|toy)box|^(ed|bc|dc)$"
                           r"|^(python|perl|ruby|lua|luajit|tclsh|wish|awk|gawk|mawk|nawk|sed|m4|php|node|nodejs|guile|gdb|expect)[-0-9.]*$"
                           r"|^lib(python|perl|ruby|lua|tcl|guile|mozjs)[-0-9.]*\.so")
        self.assertEqual([path for path in self.names() if names.match(path.name)], [])
        scripts = [path for path in self.files() if path.stat().st_mode & 0o111 and path.read_bytes()[:2] == b"#!"]
        self.assertEqual(scripts, [])

    def test_there_is_no_package_manager_and_no_login(self):
        names = {"apt", "apt-get", "dpkg", "login", "agetty", "getty", "su", "sudo", "sulogin", "sshd", "dropbear"}
        self.assertEqual([path for path in self.names() if path.name in names], [])
        shadow = (self.root / "etc/shadow").read_text().splitlines()
        self.assertEqual([line for line in shadow if line.split(":")[1] not in ("*", "!", "!*", "!!", "!unprovisioned")], [])

    def test_only_the_programs_that_are_listed_are_there(self):
        listed = {line.split()[0] for line in (BUILD / "image/programs").read_text().splitlines() if line.strip() and line[0] != "#"}
        for tree in self.trees[:2]:
            # Wherever they are: what can be started and is no library.
            found = {path.name for path in tree.rglob("*") if not path.is_symlink() and path.is_file() and path.stat().st_mode & 0o111 and ".so" not in path.name}
            found |= {path.name for folder in ("usr/bin", "usr/sbin") if (tree / folder).exists() for path in (tree / folder).iterdir()}
            self.assertIn("systemd-executor", found)
            self.assertEqual({name for name in found - listed if not name.startswith("postkeep")}, set(), tree)

    def test_units_start_what_is_there(self):
        for tree in self.trees[:2]:
            lacking = set()
            for unit in (tree / UNITS).glob("*.service"):
                command = re.search(r"^ExecStart=[-@:+!|]*(\S+)", unit.read_text(), re.M) if unit.is_file() else None
                if command and not any((tree / folder / command[1].lstrip("/")).exists() for folder in ("", "usr/bin", "usr/sbin")):
                    lacking.add(unit.name)
            self.assertEqual(lacking, set(), tree)
            called = {name.name for name in (tree / "usr/share/dbus-1/system-services").glob("*")}
            self.assertLessEqual(called, {f"org.freedesktop.{name}1.service" for name in ("hostname", "network", "systemd", "timedate")})

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

    def test_drivers_of_network_cards_and_disks_find_their_firmware_or_it_is_said_why_not(self):
        [modules] = (self.root / "usr/lib/modules").iterdir()
        drivers = [file for folder in ("net/ethernet", "scsi") for file in (modules / "kernel/drivers" / folder).rglob("*.ko*")]
        # Cards of rented servers: Intel's of 1 to 100 Gbit/s, Broadcom's, Mellanox's, Realtek's.
        there = {file.name.partition(".")[0] for file in drivers}
        self.assertLessEqual({"e1000e", "igb", "igc", "ixgbe", "i40e", "ice", "bnx2", "bnx2x", "bnxt_en", "tg3", "mlx4_en", "mlx5_core", "r8169", "atlantic"}, there)
        lacking = set()
        for file in drivers:
            wanted = run("modinfo", "--field=firmware", str(file)).split()
            if any(not list((self.root / "usr/lib/firmware").glob(f"{name}*")) for name in wanted):
                lacking.add(file.name.partition(".")[0])
        self.assertEqual(lacking, set(NO_FIRMWARE))

    def test_there_are_drivers_for_a_server_and_none_for_radio_sound_and_pictures(self):
        modules = [path for tree in self.trees for path in tree.glob("usr/lib/modules/*/kernel/**/*.ko*")]
        there = {part for path in modules for part in path.parts[path.parts.index("kernel"):]}
        self.assertEqual(there & {"wireless", "mac80211", "cfg80211", "bluetooth", "nfc", "wwan", "hamradio", "ieee802154", "ax25",
                                  "sound", "soundwire", "gpu", "accel", "media", "fbdev", "rfkill"}, set())
        names = {path.name.partition(".")[0] for path in modules}
        # Modems, which lie among network cards and serial ports at USB.
        self.assertEqual(names & {"qmi_wwan", "cdc_mbim", "huawei_cdc_ncm", "sierra_net", "hso", "kalmia", "lg-vl600", "cdc-phonet", "option",
                                  "qcserial", "sierra", "usb_wwan"}, set())
        self.assertLessEqual({"igb", "ixgbe", "i40e", "ice", "e1000e", "r8169", "bnxt_en", "mlx5_core", "nvme", "megaraid_sas", "iTCO_wdt"}, names)

    def test_units_of_ours_are_confined(self):
        loose = {}
        for unit in self.units():
            tree = next(tree for tree in self.trees if tree in unit.parents)
            told = run("systemd-analyze", f"--root={tree}", "--offline=true", "--no-pager", "security", unit.name)
            loose[unit.name] = float(re.search(r"exposure level for \S+: ([0-9.]+)", told).group(1))
        self.assertLess({"postkeepd.service", "postkeep-root.service", "postkeep-install@.service"}, loose.keys())
        self.assertEqual({name: level for name, level in loose.items() if level > 2.0}, {})

    def test_units_of_ours_are_users_without_rights_or_it_is_said_why_not(self):
        units = {unit.name: rights(unit.parent, unit.name) for unit in self.units()}
        found = {name: one.bounding for name, one in units.items() if one.user == "root" or one.bounding is None or len(one.bounding) > 1}
        self.assertEqual(found, {name: set(capabilities.split()) for name, (capabilities, _) in ROOT_NEVERTHELESS.items()})
        self.assertEqual({name for name, one in units.items() if one.user == "root"}, ROOT_NEVERTHELESS.keys())
        self.assertEqual([name for name, one in units.items() if one.ambient - one.bounding], [])
        self.assertEqual({(name, command) for name, one in units.items() for command in one.outside}, OUTSIDE_OF_SANDBOX)


    def test_keys_of_a_keyboard_end_nothing(self):
        for tree in self.trees[:2]:
            self.assertEqual(os.readlink(tree / "etc/systemd/system/ctrl-alt-del.target"), "/dev/null", tree)
        # It acts on the keys for sleep, restart and power.
        self.assertEqual(os.readlink(self.root / "etc/systemd/system/systemd-logind.service"), "/dev/null")
        self.assertFalse((self.initrd / "usr/lib/systemd/systemd-logind").exists())
        # The kernel's own keys are off from its first moment.
        self.assertIn(b" sysctl.kernel.sysrq=0 ", (BUILD / "boot-file.efi").read_bytes())

    def test_units_of_others_run_nothing_of_ours_or_it_is_said_why(self):
        found = set()
        for tree in self.trees:
            for folder in ("etc/systemd/system", UNITS):
                for file in (tree / folder).rglob("*"):
                    unit = file.parent.name.removesuffix(".d") if file.parent.name.endswith(".d") else file.name
                    if unit.startswith("postkeep") or not file.is_file():
                        continue
                    found |= {(unit, command) for command in re.findall(r"^Exec\w*=[-@:+!|]*((?:/usr/s?bin/)?postkeep\S*.*)$", file.read_text(), re.M)}
        self.assertEqual(found, IN_UNITS_OF_OTHERS.keys())


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
        self.assertEqual(self.box.failed(), {})

    def test_systemd_listens_for_nobody_but_who_is_listed(self):
        told = self.box.run("systemctl", "list-units", "--type=socket", "--state=active", "--plain", "--no-legend", "--no-pager").stdout
        listening = {line.split()[0] for line in told.splitlines()}
        self.assertEqual({name for name in listening if not name.startswith("postkeep-")},
                         {"dbus.socket", "systemd-journald.socket", "systemd-journald-dev-log.socket", "systemd-networkd.socket"})

    def test_what_runs_of_ours_may_do_what_its_unit_says_and_nothing_else(self):
        # Two that start when somebody asks them.
        self.box.run("systemctl", "start", "postkeep-act.service", "postkeep-update.service")
        listed = self.box.run("systemctl", "list-units", "postkeep*.service", "--state=running", "--plain", "--no-legend", "--no-pager").stdout
        running = {line.split()[0] for line in listed.splitlines()}
        self.assertLessEqual({"postkeepd.service", "postkeep-act.service", "postkeep-update.service", "postkeep-resolver.service"}, running)
        users = {line.split(":")[0]: line.split(":")[2] for line in self.box.inside("etc/passwd").read_text().splitlines()}
        self.assertEqual(users["postkeep"], "990")
        numbers = dict(line.split() for line in run("systemd-analyze", "--no-pager", "capability").splitlines() if line.startswith("cap_"))
        for name in sorted(running):
            unit = rights(self.box.lower / UNITS, re.sub(r"@.*\.", "@.", name))
            bounding, ambient = (sum(1 << int(numbers[one.lower()]) for one in names) for names in (unit.bounding, unit.ambient))
            process = self.box.run("systemctl", "show", "--property=MainPID", "--value", name).stdout.strip()
            status = self.box.inside("proc", process, "status").read_text()
            fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
            with self.subTest(name):
                self.assertEqual(fields["Uid"].split(), [users[unit.user]] * 4)
                own = bounding if unit.user == "root" else ambient
                self.assertEqual([int(fields[kind], 16) for kind in ("CapEff", "CapPrm", "CapBnd", "CapAmb")], [own, own, bounding, ambient])
                self.assertEqual((fields["NoNewPrivs"], fields["Seccomp"]), ("1", "2"))

    def addresses(self):
        """The box's, of both families."""
        run("ip", "address", "replace", f"{HERE6}/64", "dev", TAP, "nodad")
        self.box.run_ours("ip", "address", "replace", f"{BOX6}/64", "dev", BOX_END, "nodad")
        return BOX, BOX6

    def test_from_outside_exactly_the_documented_ports_answer(self):
        # Somebody listens at each documented port, the box or we in its place, and at others, which only the rules keep silent.
        for one in self.box.in_its_network(lambda: listen(DOCUMENTED | UNDOCUMENTED)):
            self.addCleanup(one.close)
        for address in self.addresses():
            inside = self.box.in_its_network(lambda address=address: {port for port in DOCUMENTED | UNDOCUMENTED if takes(address, port)})
            self.assertEqual(inside, DOCUMENTED | UNDOCUMENTED)
            self.assertEqual({port for port in DOCUMENTED if takes(address, port)}, DOCUMENTED)
            # All others are dropped without an answer: that nobody listens there would be told.
            taken, refused = ask_every_port(address)
            self.assertEqual((taken, sorted(refused)[:10]), (DOCUMENTED, []))

    def test_from_outside_no_datagram_gets_in(self):
        # These hear what the rules let through, whatever its port.
        ears = self.box.in_its_network(lambda: [socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_UDP) for family in (socket.AF_INET, socket.AF_INET6)])
        for one in ears:
            self.addCleanup(one.close)
        for address in self.addresses():
            self.box.in_its_network(lambda address=address: knock(address, UNDOCUMENTED))
            self.assertEqual(heard(ears), UNDOCUMENTED)
            knock(address, range(1, 65536))
            self.assertEqual(heard(ears), set())

    def test_who_asks_for_its_groups_is_answered(self):
        """A switch that listens to memberships of IPv6 (RFC 4541) asks, and forgets who does not answer."""
        self.addresses()
        index = socket.if_nametoindex(TAP)
        wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x86DD))
        ask = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
        self.addCleanup(wire.close)
        self.addCleanup(ask.close)
        wire.bind((TAP, 0))
        box = bytes.fromhex(MAC.replace(":", ""))

        def told(within):
            """Whether a report (RFC 3810 §5.2, behind the option that all routers look at) comes from the box."""
            deadline = time.monotonic() + within
            while (left := deadline - time.monotonic()) > 0:
                if select.select([wire], [], [], left)[0]:
                    frame = wire.recv(2048)
                    if frame[6:12] == box and frame[20] == 0 and frame[54] == 58 and frame[62] == 143:
                        return True
            return False

        # What it says without being asked, as after an address was set, is over.
        deadline = time.monotonic() + 60
        while told(4):
            self.assertLess(time.monotonic(), deadline)
        # A general query (§5.1): answer within a second. Router alert (RFC 2711), from an address of the link, one hop.
        ask.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_HOPOPTS, bytes.fromhex("0000050200000100"))
        ask.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 1)
        ask.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
        ask.sendto(bytes.fromhex("82000000" "03e80000") + bytes(16) + bytes.fromhex("02010000"), ("ff02::1", 0, 0, index))
        self.assertTrue(told(10))

    def test_rules_are_loaded_before_the_first_address(self):
        rules = self.box.run_ours("nft", "list", "ruleset").stdout
        for chain in ("input", "forward", "output"):
            self.assertRegex(rules, rf"hook {chain} priority filter; policy drop;")
        order = self.box.run("systemctl", "show", "--property=After,Requires", "systemd-networkd.service").stdout
        self.assertEqual(order.count("nftables.service"), 2)
        # And so it was: networkd, which sets addresses, was started when nft had ended.
        ended = self.box.run("systemctl", "show", "--property=ExecMainExitTimestampMonotonic", "--value", "nftables.service").stdout
        begun = self.box.run("systemctl", "show", "--property=ExecMainStartTimestampMonotonic", "--value", "systemd-networkd.service").stdout
        self.assertLess(0, int(ended))
        self.assertLess(int(ended), int(begun))

    def test_names_are_asked_for_where_the_network_says_and_a_change_is_followed(self):
        known = self.box.inside("etc/resolv.conf")
        self.assertIn(f"nameserver {HERE}\n", known.read_text())
        # As the console changes it.
        [file] = [file for file in self.box.inside("run/systemd/network").iterdir() if "DNS=" in file.read_text()]
        text = file.read_text()
        self.addCleanup(self.box.run, "systemctl", "restart", "systemd-networkd.service")
        self.addCleanup(file.write_text, text)
        chrony_anew = lambda: self.box.run("systemctl", "show", "--property=ExecMainStartTimestampMonotonic", "--value", "postkeep-names.service").stdout
        before = chrony_anew()
        for line, seen in (("DNS=10.0.0.99", lambda: "nameserver 10.0.0.99\n" in known.read_text()),
                           ("", lambda: "nameserver" not in known.read_text()),
                           # The first after there was none: chrony, which has given up on names, is started anew.
                           (f"DNS={HERE}", lambda: f"nameserver {HERE}\n" in known.read_text() and chrony_anew() != before)):
            file.write_text(text.replace(f"DNS={HERE}", line))
            self.box.run("systemctl", "restart", "systemd-networkd.service")
            deadline = time.monotonic() + 30
            while not seen():
                self.assertLess(time.monotonic(), deadline, (line, known.read_text()))
                time.sleep(0.2)
            self.assertEqual(self.box.run("systemctl", "is-failed", "postkeep-names.service", "postkeep-names.path", check=False).stdout.split().count("failed"), 0)

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

    def mail_core(self):
        """What systemd says of it."""
        told = self.box.run("systemctl", "show", "--property=MainPID,ActiveState,Result,WatchdogUSec", "postkeepd.service").stdout
        return dict(line.split("=", 1) for line in told.splitlines())

    def main_process(self):
        return self.mail_core()["MainPID"]

    def journal(self, name):
        """What the journal on the data volume has of an event, read with the tools tree's journalctl."""
        self.box.run("journalctl", "--sync")
        told = run("journalctl", "--quiet", "-D", self.box.merged / "srv/data/journal", "--output=json", f"MESSAGE_ID={EVENTS[name]}")
        return [json.loads(line) for line in told.splitlines()]

    def test_a_campaign_goes_through(self):
        status, text = self.owner.campaign(300)
        self.assertEqual(status, 0, text)

    def test_a_mail_core_that_hangs_is_ended_and_started_again_and_takes_mail(self):
        self.assertEqual(self.mail_core()["WatchdogUSec"], "1min")
        # The same in seconds; what holds for a process is what was said when it was started.
        hurry = self.box.inside("run/systemd/system/postkeepd.service.d/90-hurry.conf")
        self.addCleanup(self.start_anew)
        self.addCleanup(hurry.unlink)
        hurry.parent.mkdir(parents=True, exist_ok=True)
        hurry.write_text("[Service]\nWatchdogSec=5\n")
        self.start_anew()
        before = self.mail_core()
        self.assertEqual((before["WatchdogUSec"], before["Result"]), ("5s", "success"))
        self.box.run("systemctl", "kill", "--signal=STOP", "--kill-whom=main", "postkeepd.service")
        self.wait_until(lambda now: now["Result"] == "watchdog")
        self.wait_until(lambda now: now["ActiveState"] == "active" and now["MainPID"] != before["MainPID"])
        # To somebody whom the campaign has not made known.
        self.owner.submit(1, recipient="after-the-watchdog@gmail.test")

    def start_anew(self):
        self.box.run("systemctl", "daemon-reload")
        self.box.run("systemctl", "restart", "postkeepd.service")

    def wait_until(self, holds, within=100):
        """Waits until what systemd says of the mail core is so."""
        deadline = time.monotonic() + within
        while not holds(now := self.mail_core()):
            self.assertLess(time.monotonic(), deadline, now)
            time.sleep(0.2)


class WithoutRules(unittest.TestCase):
    def test_there_is_no_network(self):
        with Container(ROOT, {"etc/nftables.conf": "these are no rules\n"}).start() as box:
            box.console.expect("Dependency failed for Network Configuration", within=60)
            # A card that comes later does not change that.
            box.run_ours("ip", "link", "add", BOX_END, "type", "veth")
            time.sleep(3)
            begun = box.run("systemctl", "show", "--property=ExecMainStartTimestampMonotonic", "--value", "systemd-networkd.service").stdout
            self.assertEqual(int(begun), 0)
            told = box.run_ours("ip", "-oneline", "address").stdout
            self.assertEqual({line.split()[1] for line in told.splitlines()} - {"lo"}, set(), told)


def listen(ports):
    """Listeners of both families, but where somebody listens already."""
    listeners = []
    for port in ports:
        for family in (socket.AF_INET, socket.AF_INET6):
            try:
                listeners.append(socket.create_server(("", port), family=family))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
    return listeners


def takes(address, port):
    """Whether a connection is taken, within two seconds."""
    try:
        socket.create_connection((address, port), 2).close()
    except OSError:
        return False
    return True


def ask_every_port(address):
    """The TCP ports that take a connection, and those of which it is said that they do not; asked many at a time."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    taken, refused = set(), set()
    for first in range(1, 65536, 900):
        waiting, poll = {}, select.poll()
        for port in range(first, min(first + 900, 65536)):
            one = socket.socket(family)
            one.setblocking(False)
            error = one.connect_ex((address, port))
            if error == errno.EINPROGRESS:
                waiting[one.fileno()] = (one, port)
                poll.register(one, select.POLLOUT)
            else:
                (refused if error else taken).add(port)
                one.close()
        while events := poll.poll(300):
            for number, _ in events:
                one, port = waiting.pop(number)
                poll.unregister(number)
                (refused if one.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) else taken).add(port)
                one.close()
        for one, _ in waiting.values():
            one.close()
    return taken, refused


def knock(address, ports):
    """A datagram to each port."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as one:
        for port in ports:
            one.sendto(KNOCK, (address, port))


def heard(ears):
    """The ports at which the knocking was heard since the last time, until all is silent for a second."""
    ports = set()
    for ear in ears:
        ear.settimeout(1)
        try:
            while packet := ear.recv(2048):
                # Of IPv4 a raw socket gives the header too.
                datagram = packet[(packet[0] & 15) * 4:] if ear.family == socket.AF_INET else packet
                if datagram[8:] == KNOCK:
                    ports.add(int.from_bytes(datagram[2:4]))
        except TimeoutError:
            pass
    return ports


if __name__ == "__main__":
    unittest.main(verbosity=2)
