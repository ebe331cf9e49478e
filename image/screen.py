"""A terminal as somebody in front of it sees it: a terminal emulator (pyte) behind what a program writes, keys, and
pictures. Used in the tools tree by image/tests: on a pty of a container, and on the serial line of a machine.
"""

import errno
import fcntl
import os
import re
import struct
import termios
import threading
import time

import pyte

from heard import TimeUp

FONT = "/usr/share/fonts/truetype/dejavu/DejaVuSansMono.ttf"
# Pixels of a cell: two square modules of a QR code, one above the other.
CELL = (10, 20)
INK, PAPER = (214, 220, 228), (16, 20, 24)
# The groups of characters in which challenges are shown.
GROUPS = re.compile(r"(?:[0-9A-Z]{2,5}(?: |$))+")
PICTURE = re.compile("[\u2588\u2580\u2584].*")
BLOCKS = {"\u2588": (True, True), "\u2580": (True, False), "\u2584": (False, True)}


class Screen:
    """What is on a terminal of this size. `write` takes octets of the keyboard."""

    def __init__(self, write, columns=80, rows=24):
        self.write = write
        self.emulator = pyte.Screen(columns, rows)
        self.stream = pyte.ByteStream(self.emulator)
        self.news = threading.Condition()

    def feed(self, octets):
        with self.news:
            try:
                self.stream.feed(octets)
            except TypeError:
                # Firmware and systemd ask terminals for things that this one has not learnt: lost is what came with it.
                self.stream = pyte.ByteStream(self.emulator)
            self.news.notify_all()

    def lines(self):
        with self.news:
            return [line.rstrip() for line in self.emulator.display]

    def text(self):
        return "\n".join(self.lines())

    def press(self, keys):
        self.write(keys.encode())

    def see(self, *texts, without=(), within=240):
        """The same on a serial line that systemd writes to meanwhile: it is drawn again now and then."""
        deadline = time.monotonic() + within
        while True:
            self.press("\x0c")
            try:
                return self.wait(*texts, without=without, within=10)
            except TimeUp:
                if time.monotonic() > deadline:
                    raise

    def wait(self, *texts, without=(), within=30):
        """Waits until all of the texts are on the screen, and none of the others; returns what is on it."""
        deadline = time.monotonic() + within
        with self.news:
            while True:
                shown = self.text()
                # A sentence that is broken into lines is the same sentence, also beside a picture.
                flat = " ".join(PICTURE.sub("", shown).split())
                if all(text in shown or text in flat for text in texts) and not any(text in shown or text in flat for text in without):
                    return shown
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeUp(f"no {texts} without {without} on the screen within {within} s:\n{shown}")
                self.news.wait(left)

    def challenge(self):
        """The groups of the challenge that is shown, as somebody would copy them."""
        lines = self.lines()
        begun = lines.index(next(line for line in lines if line.startswith("Challenge:")))
        groups = []
        for line in lines[begun + 1:]:
            found = GROUPS.match(line)
            if not found:
                break
            groups += found.group().split()
        return " ".join(groups)

    def picture(self, path):
        """The screen as a PNG. Blocks are drawn as such, so that a QR code is one."""
        from PIL import Image, ImageDraw, ImageFont

        with self.news:
            columns, rows = self.emulator.columns, self.emulator.lines
            cells = [[self.emulator.buffer[row][column] for column in range(columns)] for row in range(rows)]
        width, height = CELL
        image = Image.new("RGB", (columns * width, rows * height), PAPER)
        draw, font = ImageDraw.Draw(image), ImageFont.truetype(FONT, 16)
        for row, line in enumerate(cells):
            for column, cell in enumerate(line):
                ink, paper = colour(cell.fg, INK), colour(cell.bg, PAPER)
                if cell.reverse:
                    ink, paper = paper, ink
                left, top = column * width, row * height
                draw.rectangle((left, top, left + width - 1, top + height - 1), fill=paper)
                if cell.data in BLOCKS:
                    for half, filled in enumerate(BLOCKS[cell.data]):
                        if filled:
                            upper = top + half * height // 2
                            draw.rectangle((left, upper, left + width - 1, upper + height // 2 - 1), fill=ink)
                elif cell.data.strip():
                    draw.text((left, top), cell.data, font=font, fill=ink, stroke_width=0.4 if cell.bold else 0, stroke_fill=ink)
        image.quantize(16).save(path, optimize=True)


def colour(name, usual):
    """The colours that the console uses; pyte writes those with a number as six digits."""
    named = {"default": usual, "black": (0, 0, 0), "white": (255, 255, 255)}
    if name in named:
        return named[name]
    return tuple(bytes.fromhex(name)) if re.fullmatch("[0-9a-f]{6}", name) else usual


class Pty(Screen):
    """A terminal in a container, at /dev/NAME there."""

    def __init__(self, container, name, columns=80, rows=24):
        # Opened by its path in the container: a pty of its devpts.
        self.master = os.open(container.inside("dev/pts/ptmx"), os.O_RDWR | os.O_NOCTTY)
        os.unlockpt(self.master)
        super().__init__(lambda octets: os.write(self.master, octets), columns, rows)
        self.resize(columns, rows)
        container.inside("dev", name).touch()
        container.run("mount", "--bind", os.ptsname(self.master), f"/dev/{name}")
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self):
        while True:
            try:
                octets = os.read(self.master, 65536)
            except OSError as error:
                if error.errno != errno.EIO:
                    return
                # Nobody has it open: the program is between two lives.
                time.sleep(0.05)
                continue
            self.feed(octets)

    def resize(self, columns, rows):
        """As when somebody pulls at the window."""
        with self.news:
            self.emulator.resize(rows, columns)
            fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
