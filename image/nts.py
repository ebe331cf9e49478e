"""A name server and a time server that asks for trust: what the box does with the names that its owner has given it. The name
server is dnsmasq; the other end of NTS is OpenSSL's TLS server with a certificate of nobody, or chrony with one that the box believes.
Used by image/tests.
"""

import contextlib
import pathlib
import subprocess
import time

NAME_SERVER = "10.0.0.53"
TIME_SERVER = "10.0.0.54"
NAME = "time.owner.example"


@contextlib.contextmanager
def running(*commands, **more):
    """Programs that are ended in the end."""
    # They end with their input.
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE, **more) for command in commands]
    try:
        yield processes
    finally:
        for process in processes:
            process.terminate()
            process.wait()


@contextlib.contextmanager
def names(folder, tap):
    """The name server, on an address of this side of the wire, and that of the time server."""
    for address in (NAME_SERVER, TIME_SERVER):
        subprocess.run(["ip", "address", "replace", f"{address}/8", "dev", tap], check=True)
    with running(["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--bind-interfaces",
                  f"--listen-address={NAME_SERVER}", f"--address=/{NAME}/{TIME_SERVER}", "--log-queries", f"--log-facility={folder / 'dns.log'}",
                  "--user=root", f"--pid-file={folder / 'dnsmasq.pid'}"]):
        yield


@contextlib.contextmanager
def servers(folder, tap):
    """Both, the second one with nobody's certificate; gives the file in which each greeting of a client is written down."""
    folder = pathlib.Path(folder)
    key, certificate, heard = (folder / name for name in ("nts.key", "nts.crt", "nts.heard"))
    subprocess.run(["openssl", "req", "-new", "-x509", "-newkey", "ed25519", "-nodes", "-days", "30", "-subj", f"/CN={NAME}",
                    "-addext", f"subjectAltName=DNS:{NAME}", "-keyout", key, "-out", certificate], check=True, capture_output=True)
    speak = ["openssl", "s_server", "-accept", f"{TIME_SERVER}:4460", "-alpn", "ntske/1", "-tls1_3", "-cert", certificate, "-key", key,
             "-servername", NAME, "-cert2", certificate, "-key2", key, "-msg", "-tlsextdebug"]
    with names(folder, tap), open(heard, "wb") as log, running(speak, stdout=log, stderr=subprocess.STDOUT):
        yield heard


@contextlib.contextmanager
def time_server(folder, authority, root):
    """One that is what it says, by the word of an authority (key and certificate): chronyd, from the file of a root of ours. It tells
    the time of this machine, and leaves its clock alone."""
    folder, (authority_key, authority_certificate) = pathlib.Path(folder), authority
    key, request, certificate, names_file = (folder / f"true.{end}" for end in ("key", "csr", "crt", "names"))
    names_file.write_text(f"subjectAltName=DNS:{NAME}\n")
    for command in (["req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={NAME}", "-keyout", key, "-out", request],
                    ["x509", "-req", "-in", request, "-CA", authority_certificate, "-CAkey", authority_key, "-CAcreateserial", "-days", "30",
                     "-extfile", names_file, "-out", certificate]):
        subprocess.run(["openssl", *command], check=True, capture_output=True)
    place = folder / "root"
    place.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "erofs", "-o", "loop,ro", root, place], check=True)
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=700", "tmpfs", place / "run"], check=True)
        subprocess.run(["mount", "--bind", "/dev", place / "dev"], check=True)
        for file, name in ((key, "key"), (certificate, "crt")):
            (place / f"run/time.{name}").write_bytes(file.read_bytes())
        (place / "run/chrony.conf").write_text(
            f"local stratum 1\nallow\nbindaddress {TIME_SERVER}\nbindcmdaddress /\ncmdport 0\npidfile /run/chronyd.pid\n"
            "ntsserverkey /run/time.key\nntsservercert /run/time.crt\n")
        with running(["chroot", place, "/usr/sbin/chronyd", "-x", "-d", "-u", "root", "-f", "/run/chrony.conf"]):
            yield
    finally:
        subprocess.run(["umount", "--recursive", place], check=True)


def wait_for(heard, *words, within=120):
    """Waits until all of the words stand in what was written down."""
    deadline = time.monotonic() + within
    while True:
        text = heard.read_text(errors="replace")
        if all(word in text for word in words):
            return text
        assert time.monotonic() < deadline, f"no {words}: {text[-2000:]}"
        time.sleep(1)
