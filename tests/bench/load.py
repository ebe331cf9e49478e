"""The two ends of a measurement: Postfix's smtp-source sends, its smtp-sink receives and counts."""

import contextlib
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import time

SENDER = "campaign@sender.example"
RECIPIENT = "reader@receiver.example"

WORDS = """the of and to a in is for on that with are as at be this have from or by an were which one you had not but
what all their when can said there use each she do how if will up other about out many then them these so some her
would make like him into time has look two more write go see number no way could people my than first water been call
who oil its now find long down day did get come made may part invoice account delivery order summer offer reader
customer address monthly newsletter article picture welcome price catalogue season service week region morning harbour
island library market river bridge garden kitchen evening station village music theatre window letter journey"""


def message(size):
    """A mail of `size` bytes as it travels (CRLF), with the usual headers and text of many words."""
    choice = random.Random(size)
    words = WORDS.split()
    lines = [
        f"From: Sender of News <{SENDER}>",
        f"To: {RECIPIENT}",
        "Subject: What this week brings to the harbour and the market",
        "Date: Mon, 23 Nov 2026 09:30:00 +0100",
        f"Message-ID: <{size}.20261123@sender.example>",
        "MIME-Version: 1.0",
        "Content-Type: text/plain; charset=us-ascii",
        "",
    ]
    length = sum(len(line) + 2 for line in lines)
    line = ""
    while length < size:
        word = choice.choice(words)
        if choice.random() < 0.1:
            word = word.capitalize()
        elif choice.random() < 0.04:
            word = str(choice.randrange(10000))
        if len(line) + len(word) + 1 > 72:
            lines.append(line)
            length += len(line) + 2
            line = word
        else:
            line = f"{line} {word}" if line else word
    # The last line is cut or stretched so that the whole has the size that it says.
    excess = length - size
    last = lines.pop()
    if excess <= len(last):
        lines.append(last[:len(last) - excess])
    else:
        short = lines.pop()
        lines.append((short + " " + last)[:len(short) + len(last) + 2 - excess])
    return "\n".join(lines) + "\n"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for_greeting(port, process, limit=30.0):
    """Until an SMTP server greets on `port`; an error when its process ends or the time is up."""
    end = time.monotonic() + limit
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(f"{process.args[0]} ended with status {process.returncode} before it was ready")
        with contextlib.suppress(OSError):
            with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
                connection.settimeout(5)
                if connection.recv(512).startswith(b"220"):
                    connection.sendall(b"QUIT\r\n")
                    connection.recv(512)
                    return
        time.sleep(0.05)
    raise RuntimeError(f"{process.args[0]} did not greet on port {port} within {limit:.0f} s")


def stop(process, limit=30.0):
    """SIGTERM, patience, SIGKILL; only ever to the process that we started."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(limit)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def command(name):
    path = shutil.which(name)
    if path is None:
        raise RuntimeError(f"{name} is missing: run scripts/setup bench")
    return path


class Sink:
    """smtp-sink on loopback. Its running counter goes to a file in memory, where we look at it."""

    def __init__(self, port, dump=None):
        self._counter = os.memfd_create("smtp-sink")
        arguments = [command("smtp-sink"), "-c", "-4"]
        if os.getuid() == 0:
            arguments += ["-u", "nobody"]
        if dump is not None:
            arguments += ["-d", f"{dump}/"]
        arguments += [f"127.0.0.1:{port}", "1024"]
        self.process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=self._counter,
                                        stderr=subprocess.DEVNULL)
        wait_for_greeting(port, self.process)

    def count(self):
        """Messages received so far."""
        size = os.fstat(self._counter).st_size
        tail = os.pread(self._counter, 200, max(0, size - 200)).decode("ascii", "replace")
        found = re.findall(r"mesg=\s*(\d+)", tail)
        return int(found[-1]) if found else 0

    def close(self):
        stop(self.process)
        os.close(self._counter)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def source(port, message_file, messages, sessions):
    """Starts smtp-source: `messages` mails over `sessions` connections that stay open, each to another recipient."""
    return subprocess.Popen(
        [command("smtp-source"), "-4", "-d", "-N", "-s", str(sessions), "-m", str(messages), "-f", SENDER,
         "-t", RECIPIENT, "-M", "source.sender.example", "-F", str(message_file), f"127.0.0.1:{port}"],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
