"""What stands around a box in a test: a namespace without a way out, a wire to the box, the rehearsal's internet at the
other end, an owner with a key and a seed.

Used in the tools tree by image/tests and image/tour, in a network namespace of its own (`unshare --net`).
"""

import contextlib
import email.message
import json
import os
import pathlib
import re
import signal
import smtplib
import ssl
import subprocess
import time

BOX = "10.1.0.1"
SECOND = "10.1.0.2"
HERE = "10.0.0.1"
TAP = "wire0"
BOX_END = "box0"
MAC = "52:54:00:70:6b:01"
BOX_FOLDER = "/var/lib/postkeep/etc/rehearsal"
FINGERPRINT = re.compile(r"publish box-fingerprint ([0-9a-f]{64})")
PUBLISHED = re.compile(r"publish (\S+\._domainkey\.\S+) TXT (v=DKIM1; k=\w+; p=[A-Za-z0-9+/=]+)")


def run(*command, **more):
    return subprocess.run(command, check=True, capture_output=True, text=True, **more).stdout


def network(container=False):
    """The wire: a tap device for a machine or a pair for a container, and the rehearsal's addresses on our side of it."""
    assert [line.split(":")[1].strip() for line in run("ip", "-oneline", "link").splitlines()] == ["lo"], "this wants a network namespace of its own"
    run("ip", "link", "set", "lo", "up")
    if container:
        # What systemd-nspawn sees of the network's devices is in a /sys of this namespace.
        run("mount", "-t", "sysfs", "sysfs", "/sys")
        run("ip", "link", "add", TAP, "type", "veth", "peer", "name", BOX_END, "address", MAC)
    else:
        run("ip", "tuntap", "add", TAP, "mode", "tap")
    run("ip", "address", "add", f"{HERE}/8", "dev", TAP)
    run("ip", "link", "set", TAP, "up")
    run("ip", "route", "add", "local", "10.2.0.0/16", "dev", "lo")


def toml(value):
    """A TOML string: JSON's are all right."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


class Owner:
    """Whose box it is: a key, and a rehearsal that has been prepared for the box."""

    def __init__(self, folder, programs, hurry=60, deadline=300, configuration="postkeep.toml"):
        self.folder, self.programs = pathlib.Path(folder), pathlib.Path(programs)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.prepared = self.folder / "prepared"
        self.internet = None
        # Mail that nobody takes waits for as long as the rehearsal lets it: half of the deadline.
        patient = self.folder / "postkeep.toml"
        patient.write_text(re.sub(r'^expire-after = ".*"$', 'expire-after = "7d"', pathlib.Path(configuration).read_text(), flags=re.M))
        run(self.programs / "postkeep", "rehearse", "--config", patient, "--box", BOX, "--block", "10.0.0.0/8",
            "--hurry", str(hurry), "--deadline", str(deadline), "--prepare", self.prepared)
        self.identities = {}
        for role in ("clients", "readers"):
            file = self.folder / f"{role}.pem"
            if not file.exists():
                run(self.programs / "postkeep", "api", "identity", "new", "--output", file)
            shown = run(self.programs / "postkeep", "api", "identity", "show", file, "--json")
            self.identities[role] = (file, json.loads(shown)["fingerprint"])
        self.fingerprint = None
        self.key = self.folder / "owner.key"
        if not self.key.exists():
            run(self.programs / "postkeep-flash", "key", "generate", "--name", "owner.example/box", "--out", self.key)

    def facts(self):
        return json.loads((self.prepared / "prepared.json").read_text())

    def seed(self, hostname="box.owner.example", interface=f"mac = {toml(MAC)}", dns=HERE, time_servers=(), addresses=(BOX, SECOND), keys=()):
        """What the box is told. Keys are not in it: the box makes its own. `keys` are lines that say who opens it."""
        box = self.prepared / "box"
        lines = [
            f"hostname = {toml(hostname)}", "[network]", f"dns = [{toml(dns)}]", f"time-servers = {toml(list(time_servers))}", "[[network.interface]]", interface,
            f"addresses = {toml([f'{address}/8' for address in addresses])}", "[api]",
            *(f"{role} = [{toml(fingerprint)}]" for role, (_, fingerprint) in self.identities.items()), "[mail]", f"configuration = {toml((box / 'postkeep.toml').read_text())}",
        ]
        for name in ("authority.pem", "trust-anchors", "events.secret"):
            lines += ["[[mail.file]]", f"name = {toml('rehearsal/' + name)}", f"content = {toml((box / name).read_text())}"]
        lines += keys
        draft, seed = self.folder / "seed.toml", self.folder / "seed"
        draft.write_text("\n".join(lines) + "\n")
        seed.unlink(missing_ok=True)
        run(self.programs / "postkeep-flash", "seed", "make", "--from", draft, "--key", self.key, "--out", seed)
        return seed

    def publish(self, console):
        """Puts the keys that the box has made into the rehearsal's DNS, as its owner would."""
        facts = self.facts()
        found = dict(PUBLISHED.findall(console))
        self.fingerprint = FINGERPRINT.search(console).group(1)
        missing = [name for name, _ in facts["keys"] if name not in found]
        assert not missing, f"the box did not say its keys of {missing}"
        facts["keys"] = [[name, found[name]] for name, _ in facts["keys"]]
        facts["box-certificate"] = ssl.get_server_certificate((BOX, 443))
        (self.prepared / "prepared.json").write_text(json.dumps(facts))

    def manage(self, *command, role="clients", check=True, within=120):
        """`postkeep` at the box, over the network, by the fingerprint that the box has published."""
        return subprocess.run(
            [self.programs / "postkeep", "--box", BOX, "--identity", self.identities[role][0], "--box-fingerprint", self.fingerprint, *command],
            check=check, capture_output=True, text=True, timeout=within,
        )

    def running(self):
        """The version that runs, once the box answers."""
        done = self.manage("update", "status", "--json", check=False)
        return json.loads(done.stdout)["running"] if done.returncode == 0 else None

    def proven(self):
        """The same, once it has proved itself."""
        done = self.manage("update", "status", "--json", check=False)
        if done.returncode != 0:
            return None
        versions = json.loads(done.stdout)["versions"]
        return next((one["version"] for one in versions if one["running"] and one["standing"] == "good"), None)

    # -- the internet at the other end of the wire

    def open_internet(self):
        log = open(self.folder / "internet.log", "ab")
        self.internet = subprocess.Popen(
            [self.programs / "postkeep", "rehearse", "--prepared", self.prepared, "--no-campaign", "--serve", "--quiet"],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )

    def close_internet(self):
        if self.internet is not None:
            self.internet.send_signal(signal.SIGTERM)
            self.internet.wait(30)
            self.internet = None

    def campaign(self, recipients, within=600):
        """A whole campaign through the box; the rehearsal's own verdict."""
        done = subprocess.run(
            [self.programs / "postkeep", "rehearse", "--prepared", self.prepared, "--recipients", str(recipients), "--quiet"],
            capture_output=True, text=True, timeout=within,
        )
        return done.returncode, done.stdout + done.stderr

    @contextlib.contextmanager
    def door(self):
        """A connection to port 587 that may submit."""
        facts = self.facts()
        with smtplib.SMTP(BOX, 587, timeout=60) as door:
            door.starttls(context=ssl._create_unverified_context())
            door.login(facts["user"], facts["password"])
            yield door

    def submit(self, number, recipient="person-1@gmail.test", door=None):
        """One message, by a connection of its own when none is given; returns its Message-ID once the box has answered 250."""
        message = email.message.EmailMessage()
        message["From"], message["To"], message["Subject"] = "news@harbour-news.example", recipient, f"number {number}"
        message["Message-ID"] = f"<{number}.{os.getpid()}.{time.time_ns()}@harbour-news.example>"
        message.set_content("The harbour is open.\n")
        with contextlib.nullcontext(door) if door else self.door() as way:
            way.send_message(message)
        return message["Message-ID"]

    def arrivals(self):
        path = self.prepared / "arrivals.jsonl"
        if not path.exists():
            return []
        return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]

    def wait_for(self, identifiers, within=120):
        """Waits until each message has arrived; returns its arrivals. Nothing may be lost; what comes twice is counted."""
        deadline = time.monotonic() + within
        while True:
            mine = [one for one in self.arrivals() if one.get("message-id") in identifiers]
            missing = set(identifiers) - {one["message-id"] for one in mine if one["answered"]}
            if not missing:
                return mine
            if time.monotonic() > deadline:
                raise AssertionError(f"{len(missing)} of {len(identifiers)} messages have not arrived: {sorted(missing)[:3]}; {self.arrivals()[-3:]}")
            time.sleep(0.5)


def write_seed(disk, seed):
    """The seed into the boot partition of a disk (which begins at 1 MiB: image/layout.toml, flash checks it)."""
    subprocess.run(["mcopy", "-o", "-i", f"{disk}@@1M", seed, "::/postkeep/seed"], check=True, env={**os.environ, "MTOOLS_SKIP_CHECK": "1"})
