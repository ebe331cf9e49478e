"""Three people elsewhere with a key each, and the program with which they open a box and seal it. Used in the tools tree by image/tests.
"""

import json
import pathlib
import re
import subprocess
import time

from stage import BOX, toml

DOOR = f"{BOX}:8444"
NAMES = ("anna", "ben", "cleo")
# What the box says of itself once it is theirs.
GIVEN = "from now on 2 of 3 custodians open this box"
# What a custodian asks the box's TPM to vouch for: the release that the image was made into, by whose key it is signed; or that they do without.
VOUCHED = ("--release", "/build/releases/first/release.note", "--release-key", "/build/keys/release.pub",
           "--own", "/build/keys/PK.crt", "--own", "/build/keys/KEK.crt")
UNATTESTED = ("--unattested",)


class Custodians:
    def __init__(self, folder, programs):
        self.folder, self.program = pathlib.Path(folder), pathlib.Path(programs) / "postkeep-keys"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.token = self.folder / "box.token"

    def key(self, name):
        return self.folder / f"{name}.key"

    def run(self, *command, check=True):
        """Their program, on their own machine."""
        done = subprocess.run([self.program, *command], capture_output=True, text=True, timeout=120)
        assert not check or done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done

    def new_key(self, name):
        """Its public half."""
        return self.run("generate", "--out", self.key(name)).stdout.strip()

    def public(self, name):
        """The public half of a key that is there, or is made now."""
        return self.run("recipient", self.key(name)).stdout.strip() if self.key(name).exists() else self.new_key(name)

    def of_seed(self):
        """As the owner writes it into the seed, from the public halves that they have sent: two of the three open the box."""
        lines = ["[keys]", "threshold = 2"]
        for name in NAMES:
            lines += ["[[keys.custodian]]", f"name = {toml(name)}", f"recipients = [{toml(self.public(name))}]"]
        return lines

    def key_set(self, *names):
        """A file that says who is to open the box from now on: two of them."""
        lines = ["threshold = 2"]
        for name in names:
            lines += ["[[custodian]]", f"name = {toml(name)}", f"recipients = [{toml(self.public(name))}]"]
        file = self.folder / "keys.toml"
        file.write_text("\n".join(lines) + "\n")
        return file

    def reach(self, verb, certificate, *more, check=True):
        return self.run(verb, "--box", DOOR, "--certificate", certificate, "--json", *more, check=check)

    def state(self, certificate):
        return json.loads(self.reach("state", certificate).stdout)["state"]

    def act(self, verb, name, certificate, *more, check=True):
        """One of them, by their key."""
        return self.reach(verb, certificate, "--token", self.token, "--identity", self.key(name), *more, check=check)

    def unseal(self, names, certificate, reason, vouching=VOUCHED):
        """Says how much the last of them could make sure of."""
        for name in names:
            done = self.act("unseal", name, certificate, "--reason", reason, *vouching)
        return json.loads(done.stdout)["grade"]


def door(machine, *texts, **more):
    """The sum of the door's certificate, read off the screen, which has all of the texts then."""
    deadline = time.monotonic() + 240
    while not (told := re.search(r"^Door +([0-9a-f]{64})$", machine.screen.see(*texts, **more), re.M)):
        assert time.monotonic() < deadline, "the door is not on the screen"
        time.sleep(1)
    return told.group(1)


def offer(machine):
    """What the box offers, read off the page of the screen that says it, once all lines of it are drawn."""
    deadline = time.monotonic() + 60
    while True:
        shown = machine.screen.see("This box waits for its custodians", "postkeep-offer-1:")
        line = "".join(re.search(r"postkeep-offer-1:\S+(?:\n\S+)*", shown).group().split())
        if re.fullmatch(r"postkeep-offer-1:[a-z-]+:[0-9a-f]{32}:[0-9a-f]{64}:age1[a-z0-9]{58}", line):
            return line
        assert time.monotonic() < deadline, line
        time.sleep(1)
