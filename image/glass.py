"""What stands on the screen of a machine that has one, read from a picture of it (PPM) without knowing its letters.

Texts are there when their equal letters look equal and all others do not: no font is needed, as long as they have letters in common.
"""

# A character of the kernel's console, in dots.
WIDTH, HEIGHT = 8, 16


class Glass:
    """A picture in cells. What each looks like is what differs from its background, whatever the colours."""

    def __init__(self, picture):
        kind, width, height, most = picture.split(maxsplit=4)[:4]
        assert (kind, most) == (b"P6", b"255"), picture[:20]
        width, height = int(width), int(height)
        dots = picture[-3 * width * height:]
        self.rows = [[self.cell(dots, width, column * WIDTH, row * HEIGHT) for column in range(width // WIDTH)] for row in range(height // HEIGHT)]

    @staticmethod
    def cell(dots, width, left, top):
        line = [dots[3 * (y * width + left):3 * (y * width + left + WIDTH)] for y in range(top, top + HEIGHT)]
        colours = [row[3 * x:3 * x + 3] for row in line for x in range(WIDTH)]
        background = max(set(colours), key=colours.count)
        return tuple(colour != background for colour in colours)

    def shows(self, *texts):
        """Whether each of the texts stands somewhere, and all in the same letters."""
        return self.found(texts, {})

    def found(self, texts, letters):
        if not texts:
            return True
        text, *others = texts
        for row in self.rows:
            for column in range(len(row) - len(text) + 1):
                seen = fitting(text, row[column:column + len(text)], letters)
                if seen is not None and self.found(others, seen):
                    return True
        return False


def fitting(text, cells, letters):
    """The letters with those of this place, or None where they contradict each other."""
    seen = dict(letters)
    for letter, cell in zip(text, cells):
        if seen.setdefault(letter, cell) != cell:
            return None
    return seen if len(set(seen.values())) == len(seen) else None
