"""A name server and a time server that asks for trust: what the box does with the names that its owner has given it. The name
server is dnsmasq; the other end of NTS is OpenSSL's TLS server with a certificate of nobody. Used by image/tests.
"""

import contextlib
import pathlib
import subprocess
import time

NAME_SERVER = "10.0.0.53"
TIME_SERVER = "10.0.0.54"
NAME = "time.owner.example"


@contextlib.contextmanager
def servers(folder, tap):
    """Both on addresses of this side of the wire; gives the file in which each greeting of a client is written down."""
    folder = pathlib.Path(folder)
    for address in (NAME_SERVER, TIME_SERVER):
        subprocess.run(["ip", "address", "add", f"{address}/8", "dev", tap], check=True)
    key, certificate, heard, asked = (folder / name for name in ("nts.key", "nts.crt", "nts.heard", "dns.log"))
    subprocess.run(["openssl", "req", "-new", "-x509", "-newkey", "ed25519", "-nodes", "-days", "30", "-subj", f"/CN={NAME}",
                    "-addext", f"subjectAltName=DNS:{NAME}", "-keyout", key, "-out", certificate], check=True, capture_output=True)
    with open(heard, "wb") as log:
        running = [
            subprocess.Popen(["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--bind-interfaces",
                              f"--listen-address={NAME_SERVER}", f"--address=/{NAME}/{TIME_SERVER}", "--log-queries", f"--log-facility={asked}",
                              "--user=root", f"--pid-file={folder / 'dnsmasq.pid'}"], stdin=subprocess.DEVNULL),
            subprocess.Popen(["openssl", "s_server", "-accept", f"{TIME_SERVER}:4460", "-alpn", "ntske/1", "-tls1_3", "-cert", certificate, "-key", key,
                              "-servername", NAME, "-cert2", certificate, "-key2", key, "-msg", "-tlsextdebug"],
                             # It ends with its input.
                             stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT),
        ]
    try:
        yield heard
    finally:
        for process in running:
            process.terminate()
            process.wait()


def wait_for(heard, *words, within=120):
    """Waits until all of the words stand in what was written down."""
    deadline = time.monotonic() + within
    while True:
        text = heard.read_text(errors="replace")
        if all(word in text for word in words):
            return text
        assert time.monotonic() < deadline, f"no {words}: {text[-2000:]}"
        time.sleep(1)
