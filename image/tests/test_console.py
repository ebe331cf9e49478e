"""The console on the box, by its keys and its screen: the real unit on a terminal of a container, the real part that acts
behind it, real systemd, networkd and D-Bus.

What the screen shows is read by a terminal emulator; the owner's side is `postkeep console answer`, outside of the box.
The pictures of docs/operate/console.md are made here (scripts/image picture).
"""

import json
import re
import shutil
import socket
import subprocess
import time
import unittest

from container import Container
from screen import Pty
from stage import BOX, BOX_END, Owner, network, run
from test_container import BUILD, ROOT

SCRATCH = BUILD / "scratch/console"
PICTURES = BUILD / "scratch/pictures"
UNIT = "postkeep-console@ttyS0.service"
MENU = "[f] fingerprint  [n] network  [r] start again  [o] power off  [s] seal"
ADDED = "10.1.0.3"


class Box:
    """A box in a container with its screen, and its owner outside."""

    def __init__(self, owner, **more):
        self.owner = owner
        self.container = Container(ROOT, {"efi/postkeep/seed": owner.seed(interface=f'name = "{BOX_END}"').read_text()}, **more)
        self.container.start()

    def up(self, settled=True):
        self.container.console.expect("Reached target Postkeep takes mail", within=90)
        if settled:
            self.container.console.expect("Reached target Multi-User System", within=90)
        self.screen = Pty(self.container, "ttyS0")
        self.container.run("systemctl", "start", UNIT)
        return self.screen.wait(MENU, "Owner     owner.example/box", "Mail      running", within=60)

    def answer(self, challenge, key=None):
        return run(BUILD / "bin/postkeep", "console", "answer", "--key", key or self.owner.key, "--yes", challenge).strip()

    def home(self):
        """Back to the status page, from wherever."""
        for _ in range(3):
            self.screen.press("\x1b")
            time.sleep(0.2)
        self.screen.wait("[f] fingerprint", "State")

    def ask(self, key, deed):
        """Chooses from the menu; returns the challenge."""
        self.screen.press(key)
        self.screen.wait("Challenge:", "Answer:", deed)
        return self.screen.challenge()

    def fill(self, field, text):
        """Writes into a field of the network form, counted from the top."""
        self.screen.press("\t" * field + "\x15" + text)
        self.screen.press("\x1b[Z" * field)

    def say(self, request):
        """What somebody says to the part that acts without the screen in between."""
        with socket.socket(socket.AF_UNIX) as line:
            line.connect(str(self.container.inside("run/postkeep-act.socket")))
            line.settimeout(30)
            line.sendall(json.dumps(request).encode() + b"\n")
            return json.loads(line.makefile().readline())

    def process(self):
        return self.container.run("systemctl", "show", "--property=MainPID,NRestarts", UNIT).stdout

    def journal(self, unit):
        return self.container.run("journalctl", "--no-pager", "--output=cat", f"--unit={unit}").stdout


def owner(name):
    folder = SCRATCH / name
    shutil.rmtree(folder, ignore_errors=True)
    return Owner(folder, BUILD / "bin", configuration=BUILD / "image/postkeep.toml")


def answers(address):
    """Whether the box takes connections at an address, within two seconds."""
    try:
        socket.create_connection((address, 25), 2).close()
    except OSError:
        return False
    return True


class TheScreen(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        network(container=True)
        cls.box = Box(owner("screen"), network=BOX_END)
        cls.screen_at_first = cls.box.up()
        cls.screen = cls.box.screen
        cls.stranger = SCRATCH / "stranger.key"
        cls.stranger.unlink(missing_ok=True)
        run(BUILD / "bin/postkeep-flash", "key", "generate", "--name", "owner.example/box", "--out", cls.stranger)

    @classmethod
    def tearDownClass(cls):
        cls.box.container.close()

    def setUp(self):
        self.screen.resize(80, 24)
        self.box.home()

    def test_the_status_page_tells_how_the_box_is(self):
        who = self.box.say("who")["who"]
        self.assertEqual(who["owner"], "owner.example/box")
        posture = json.loads(self.box.container.inside("run/postkeep-posture/posture.json").read_text())
        shown = self.screen.wait(
            "Postkeep 0.", "OPEN", f"Machine   {who['machine']}", "State     open: the data volume is mounted",
            f"Posture   {posture['grade']}: ", posture["sentences"][0]["seen"], f"Network   {BOX_END} routable", f"{BOX}/8",
            "Mail      running: 0 recipients", "Failed    nothing", "-- Log --", without=["Not read"],
        )
        # The last lines of the journal, the newest at the end.
        self.assertRegex(shown.split("-- Log ")[1], r"\d\d:\d\d:\d\d \S+: \S")

    def test_the_fingerprint_is_the_one_in_the_challenges(self):
        machine = self.box.say("who")["who"]["machine"]
        self.screen.press("f")
        self.screen.wait("The fingerprint of this machine:", machine)
        self.box.home()
        challenge = self.box.ask("r", "do: stop mail and start this machine again")
        text = subprocess.run([BUILD / "bin/postkeep", "console", "answer", "--key", self.box.owner.key, challenge],
                              input="no\n", capture_output=True, text=True)
        self.assertIn(f"machine: {machine}\n", text.stderr)
        self.assertIn("not signed", text.stderr)
        self.assertEqual((text.returncode, text.stdout), (2, ""))

    def test_only_the_owners_answer_to_this_very_challenge_counts(self):
        first = self.box.ask("r", "do: stop mail and start this machine again")
        self.screen.press(self.box.answer(first, self.stranger) + "\r")
        self.screen.wait("not the signature of owner.example/box under this challenge")
        slip = self.box.answer(first)
        slip = ("0" if slip[0] != "0" else "1") + slip[1:]
        self.screen.press("\x15" + slip)
        self.screen.wait("group 1")
        self.box.home()
        second = self.box.ask("o", "do: stop mail and switch this machine off")
        self.assertNotEqual(first, second)
        self.screen.press(self.box.answer(first) + "\r")
        self.screen.wait("not the signature of owner.example/box under this challenge")
        self.assertEqual(self.box.container.run("systemctl", "is-system-running", check=False).stdout.strip(), "running")
        refusals = self.box.journal("postkeep-act.service")
        self.assertEqual(refusals.count("an answer at the console was refused: the answer is not the signature"), 2, refusals)

    def test_it_goes_at_once_when_it_is_told_to(self):
        # Sealing and each restart wait for it. Half of the time systemd waited for its limit, while it died beside a program of its own.
        for _ in range(10):
            began = time.monotonic()
            self.box.container.run("systemctl", "stop", UNIT)
            self.assertLess(time.monotonic() - began, 3)
            self.box.container.run("systemctl", "start", UNIT)
            self.screen.wait(MENU)

    def network_page(self):
        self.screen.press("n")
        self.screen.wait("Interface", f"> Interface  {BOX_END}")

    def test_another_network_is_tried_and_goes_back_by_itself_unless_it_is_kept(self):
        # One more address; kept.
        self.network_page()
        self.assertIn(f"{BOX}/8", self.screen.text())
        self.box.fill(2, f"{BOX}/8 10.1.0.2/8 {ADDED}/8")
        challenge = self.box.ask("\r", f"addresses: {BOX}/8 10.1.0.2/8 {ADDED}/8")
        answer = self.box.answer(challenge)
        self.assertFalse(answers(ADDED))
        self.screen.press(answer + "\r")
        self.screen.wait(f"The new network of {BOX_END} is being tried")
        self.assertTrue(answers(BOX))
        self.screen.press("k")
        self.screen.wait("The new network is kept until the next start")
        # The same answer a second time is worth nothing.
        again = self.box.say({"answer": {"challenge": challenge, "answer": answer}})
        self.assertEqual(again, {"refused": "this challenge was answered already, and counts once; ask again"})
        self.box.home()

        # A wrong one: nobody reaches the box by it, and nobody keeps it.
        self.network_page()
        self.box.fill(2, "192.0.2.77/24")
        self.screen.press(self.box.answer(self.box.ask("\r", "addresses: 192.0.2.77/24")) + "\r")
        self.screen.wait("is being tried")
        self.box.home()
        self.screen.wait("Press k to keep it", "192.0.2.77/24", without=[f"{BOX}/8"])
        self.assertFalse(answers(BOX))
        self.screen.wait(f"{BOX}/8", f"{ADDED}/8", without=["192.0.2.77", "[k] keep it"], within=90)
        self.assertTrue(answers(BOX))
        self.assertIn("nobody has kept the new network: the old one goes back", self.box.journal("postkeep-act.service"))
        files = self.box.container.inside("run/systemd/network")
        self.assertTrue(any(f"Address={ADDED}/8" in file.read_text() for file in files.glob("10-postkeep*.network")))

    def test_a_network_that_cannot_be_meant_asks_nobody(self):
        self.network_page()
        self.box.fill(2, "10.1.0.1")
        self.screen.press("\r")
        self.screen.wait("Addresses: 10.1.0.1 is none")

    def test_no_size_of_the_terminal_breaks_it(self):
        before = self.box.process()
        for page, words in (("", ["Posture"]), ("f", ["fingerprint"]), ("n", ["Interface"]), ("r", ["Challenge"])):
            self.screen.resize(80, 24)
            self.box.home()
            self.screen.press(page)
            self.screen.wait(*words)
            for columns, rows in ((40, 12), (20, 5), (7, 2), (1, 1), (200, 60)):
                self.screen.resize(columns, rows)
                # Drawn again at the new size: Control-L, and something on it.
                self.screen.press("\x0c")
                if columns > 1:
                    self.screen.wait("Post")
        self.screen.resize(80, 24)
        self.box.home()
        self.assertEqual(self.box.process(), before)

    def test_a_picture_of_it_is_read_by_a_camera(self):
        shutil.rmtree(PICTURES, ignore_errors=True)
        PICTURES.mkdir(parents=True)
        self.screen.picture(PICTURES / "console.png")
        challenge = self.box.ask("r", "do: stop mail and start this machine again")
        self.screen.wait("s left")
        self.screen.picture(PICTURES / "console-challenge.png")
        self.assertEqual(codes(PICTURES / "console-challenge.png"), [challenge.replace(" ", "")])
        self.assertEqual(codes(PICTURES / "console.png"), [])
        self.screen.press("\t")
        self.screen.wait(without=["Challenge:"])
        deadline = time.monotonic() + 20
        found = []
        while not found and time.monotonic() < deadline:
            # It may be half drawn.
            time.sleep(0.2)
            self.screen.picture(SCRATCH / "large.png")
            found = codes(SCRATCH / "large.png")
        self.assertEqual(found, [challenge.replace(" ", "")])

    def test_what_comes_too_late_is_refused(self):
        # The same part that acts, with less patience: it may be told to have less, never more.
        self.box.container.lay(
            "etc/systemd/system/postkeep-act.service.d/patience.conf",
            "[Service]\nExecStart=\nExecStart=postkeep-console act --valid 5\n",
        )
        self.box.container.run("systemctl", "daemon-reload")
        self.box.container.run("systemctl", "stop", "postkeep-act.service")
        challenge = self.box.ask("r", "do: stop mail and start this machine again")
        answer = self.box.answer(challenge)
        self.screen.wait("The challenge has expired", within=20)
        late = self.box.say({"answer": {"challenge": challenge, "answer": answer}})
        self.assertEqual(late, {"refused": "this challenge has expired; ask again and answer the new one in time"})


class WhatTheOwnerHasSigned(unittest.TestCase):
    maxDiff = None

    def test_it_starts_again_seals_and_goes_off(self):
        box = Box(owner("signed"))
        try:
            # Without a wire no message can go out, and whether this start is a good one is asked for minutes.
            box.up(settled=False)
            machine = box.say("who")["who"]["machine"]
            old = box.ask("r", "do: stop mail and start this machine again")
            answer = box.answer(old)
            box.screen.press(answer + "\r")
            box.container.console.expect("Reached target System Reboot", within=120)
            # systemd-nspawn's word for: it wants to be started again (EXIT_FORCE_RESTART).
            self.assertEqual(box.container.process.wait(60), 133)
            box.container.start()
            box.up(settled=False)
            self.assertEqual(box.say({"answer": {"challenge": old, "answer": answer}}),
                             {"refused": "the challenge is of an earlier start of this machine; ask again and answer the one that is shown now"})
            self.assertEqual(box.say("who")["who"]["machine"], machine)

            challenge = box.ask("s", "do: stop mail and seal this machine")
            box.screen.press(box.answer(challenge) + "\r")
            shown = box.screen.wait("SEALED", "State     sealed: the data volume is closed", "Mail      inactive", within=120)
            self.assertNotIn("NOT SEALED", shown)
            mounts = box.container.inside("proc/1/mounts").read_text()
            self.assertNotIn(" /var/lib/postkeep ", mounts)
            self.assertNotIn(" /var/log/journal ", mounts)
            # Nobody holds on to it in a mount namespace of his own: the kernel would not let the device go.
            for process in box.container.inside("proc").glob("[0-9]*"):
                try:
                    mounts, name = ((process / file).read_text() for file in ("mounts", "comm"))
                except OSError:
                    continue
                self.assertNotRegex(mounts, r" /var/(lib/postkeep|log/journal)(/\S*)? ", name)
            self.assertEqual(box.container.failed(), {})

            box.home()
            challenge = box.ask("o", "do: stop mail and switch this machine off")
            box.screen.press(box.answer(challenge) + "\r")
            self.assertEqual(box.container.process.wait(120), 0)
        finally:
            box.container.close()


def codes(picture):
    """The QR codes in a picture, as ZBar reads them."""
    import zbar
    from PIL import Image

    with Image.open(picture) as file:
        grey = file.convert("L")
    scanner = zbar.ImageScanner()
    scanner.parse_config("enable")
    image = zbar.Image(grey.width, grey.height, "Y800", grey.tobytes())
    scanner.scan(image)
    return [symbol.data for symbol in image]


if __name__ == "__main__":
    unittest.main(verbosity=2)
