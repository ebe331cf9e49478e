"""The servers under measurement, each an instance of its own on loopback, in a scratch folder on the same disk."""

import os
import pathlib
import shutil
import subprocess

import load

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent


class Postkeep:
    """`postkeepd` as a release build: durable spool, records on, signed at delivery or not."""

    name = "postkeep"

    def __init__(self, signed):
        self.signed = signed
        self.key = f"{self.name}{' signed' if signed else ''}"

    def start(self, scratch, port, sink_port, extra=""):
        program = pathlib.Path(os.environ.get("POSTKEEPD", ROOT / "target/release/postkeepd"))
        if not program.exists():
            raise RuntimeError(f"{program} is missing: cargo build --release --package postkeepd")
        configuration = f"""
hostname = "postkeep.sender.example"

[spool]
directory = "{scratch}/spool"

[suppression]
directory = "{scratch}/suppression"
[records]
directory = "{scratch}/records"

[control]
socket = "{scratch}/control.sock"

[[listener]]
address = "127.0.0.1:{port}"
tls = "none"

[intake]
connections = 1000
connections-per-address = 1000

[[network]]
name = "loopback"
addresses = ["127.0.0.0/8"]
sender-domains = ["*"]

[source.one]
ipv4 = "127.0.0.1"

[pool.default]
sources = {{ one = 1 }}

[lane]
connections = 20
messages-per-connection = 1000000

[[route]]
domain = "*"
hosts = ["127.0.0.1:{sink_port}"]
"""
        if self.signed:
            key = scratch / "dkim.pem"
            subprocess.run([load.command("openssl"), "genpkey", "-quiet", "-algorithm", "RSA", "-pkeyopt",
                            "rsa_keygen_bits:2048", "-out", str(key)], check=True, stderr=subprocess.DEVNULL)
            configuration += f"""
[[dkim]]
domain = "sender.example"
selector = "bench"
key = "{key}"
algorithm = "rsa-sha256"
"""
        (scratch / "postkeep.toml").write_text(configuration + extra)
        log = open(scratch / "log", "w")
        self.process = subprocess.Popen([program, "--config", scratch / "postkeep.toml"], cwd=scratch,
                                        stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        # A full spool takes its time to be read.
        load.wait_for_greeting(port, self.process, 600)
        return self.process.pid

    def stop(self):
        load.stop(self.process, 60)


class Postfix:
    """Postfix as Debian builds it, with its own queue and Debian's durability; the system's Postfix is not touched."""

    name = "postfix"
    signed = False
    key = "postfix"

    @staticmethod
    def _folders():
        unpacked = ROOT / ".tools/deb/postfix"
        base = unpacked if (unpacked / "usr/sbin/postconf").exists() else pathlib.Path("/")
        return base / "usr/lib/postfix", base / "usr/sbin"

    def start(self, scratch, port, sink_port, extra=""):
        library, commands = self._folders()
        daemons = library / "sbin"
        configuration, queue, data = scratch / "etc", scratch / "queue", scratch / "data"
        for folder in (configuration, queue, data):
            folder.mkdir()
        for name in ("active", "bounce", "corrupt", "defer", "deferred", "flush", "hold", "incoming", "private",
                     "saved", "trace"):
            (queue / name).mkdir(mode=0o700)
            shutil.chown(queue / name, "postfix")
        (queue / "pid").mkdir()
        for name, mode in (("maildrop", 0o730), ("public", 0o710)):
            (queue / name).mkdir()
            shutil.chown(queue / name, "postfix", "postdrop")
            (queue / name).chmod(mode)
        shutil.chown(data, "postfix")
        (configuration / "main.cf").write_text(f"""
compatibility_level = 3.6
config_directory = {configuration}
queue_directory = {queue}
data_directory = {data}
daemon_directory = {daemons}
command_directory = {commands}
shlib_directory = {library}
meta_directory = {configuration}
import_environment = MAIL_CONFIG MAIL_DEBUG TZ LANG LD_LIBRARY_PATH
export_environment = TZ MAIL_CONFIG LANG LD_LIBRARY_PATH
maillog_file = {scratch}/maillog
maillog_file_prefixes = {scratch}
mail_owner = postfix
setgid_group = postdrop
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
myhostname = postfix.sender.example
mydomain = sender.example
myorigin = $myhostname
mynetworks = 127.0.0.0/8
mydestination =
alias_maps =
alias_database =
local_recipient_maps =
relayhost = [127.0.0.1]:{sink_port}
smtp_tls_security_level = none
smtpd_tls_security_level = none
smtpd_peername_lookup = no
smtpd_relay_restrictions = permit_mynetworks, reject
smtpd_client_connection_count_limit = 1000
default_destination_concurrency_limit = 20
initial_destination_concurrency = 20
""")
        (configuration / "master.cf").write_text(f"""
127.0.0.1:{port} inet n - n - - smtpd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
proxywrite unix - - n - 1 proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
""")
        # Where it was unpacked lie also the libraries that the system does not have.
        libraries = [library, *library.parent.glob("*-linux-gnu"), *library.parent.parent.parent.glob("lib/*-linux-gnu")]
        environment = {"PATH": os.environ["PATH"], "LANG": "C", "LD_LIBRARY_PATH": ":".join(map(str, libraries))}
        # A session of its own: on its way out, master signals its whole process group.
        self.process = subprocess.Popen([str(daemons / "master"), "-c", str(configuration)], env=environment,
                                        start_new_session=True,
                                        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                        stderr=open(scratch / "log", "w"))
        load.wait_for_greeting(port, self.process)
        return self.process.pid

    def stop(self):
        load.stop(self.process, 60)
