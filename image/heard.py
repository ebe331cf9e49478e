"""What a console has said so far, and waiting until it says something. Used by machine.py and container.py."""

import os
import re
import sys
import threading
import time

ESCAPES = re.compile(rb"\x1b\[[0-9;:?!]*[a-zA-Z]|\x1b\][0-9]*\x07|\x1b[c78=>M]|\r")
# The beginning of one, at the end of what was read: the rest comes with the next octets.
BEGUN = re.compile(rb"\x1b(\[[0-9;:?!]*|\][0-9]*)?$")
OFF = "\n--- it is off\n"
# Where two machines run at once, each takes longer for everything.
PATIENCE = float(os.environ.get("PATIENCE", "1"))


class TimeUp(AssertionError):
    """What was waited for has not been said; the end of the console is in the message."""


class Heard:
    """The text of a console without its escapes, read in a thread of its own until the end of the stream. A `screen`
    gets all of it as it came.
    """

    def __init__(self, stream, log=None, echo=False, screen=None):
        self.text, self.seen, self.log, self.echo, self.screen = "", 0, log, echo, screen
        self.news = threading.Condition()
        threading.Thread(target=self.listen, args=(stream,), daemon=True).start()

    def listen(self, stream):
        rest = b""
        while octets := os.read(stream.fileno(), 65536):
            if self.log:
                with open(self.log, "ab") as log:
                    log.write(octets)
            if self.screen:
                self.screen.feed(octets)
            octets = rest + octets
            begun = BEGUN.search(octets)
            rest = begun.group() if begun else b""
            plain = ESCAPES.sub(b"", octets[:len(octets) - len(rest)]).decode(errors="replace")
            if self.echo:
                sys.stdout.write(plain)
                sys.stdout.flush()
            self.add(plain)
        self.add(OFF)

    def add(self, text):
        with self.news:
            self.text += text
            self.news.notify_all()

    def expect(self, *texts, within=300, refuse=()):
        """Waits until one of the texts is said, after what was waited for before; returns which."""
        deadline = time.monotonic() + within * PATIENCE
        with self.news:
            while True:
                wrong = [text for text in refuse if self.text.find(text, self.seen) >= 0]
                if wrong:
                    raise AssertionError(f"the console says {wrong[0]!r}:\n{self.text[-3000:]}")
                found = [(at, text) for text in texts if (at := self.text.find(text, self.seen)) >= 0]
                if found:
                    at, text = min(found)
                    self.seen = at + len(text)
                    return text
                if OFF in self.text[self.seen:]:
                    raise TimeUp(f"it went off without {texts}:\n{self.text[-3000:]}")
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeUp(f"no {texts} within {within} s:\n{self.text[-3000:]}")
                self.news.wait(left)
