"""What a server costs: CPU time and memory of its whole process tree, read from /proc."""

import os
import pathlib
import threading

TICK = os.sysconf("SC_CLK_TCK")


def _stat(pid):
    """(parent, own CPU ticks, ticks of children that ended and were collected), or None."""
    try:
        text = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The name, in brackets, may hold anything; what follows the last bracket is regular.
    fields = text[text.rindex(")") + 2:].split()
    return int(fields[1]), int(fields[11]) + int(fields[12]), int(fields[13]) + int(fields[14])


def tree(root):
    """Process numbers of `root` and of all that descend from it."""
    parents = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (stat := _stat(name)):
            parents[int(name)] = stat[0]
    found = {root}
    grew = True
    while grew:
        more = {pid for pid, parent in parents.items() if parent in found} - found
        found |= more
        grew = bool(more)
    return found


def cpu_seconds(root):
    """User and system time of the tree so far, of processes that have ended too."""
    ticks = 0
    for pid in tree(root):
        if stat := _stat(pid):
            ticks += stat[1] + stat[2]
    return ticks / TICK


def cpu_seconds_of_ended():
    """User and system time of our own children that have ended, the source among them."""
    times = os.times()
    return times.children_user + times.children_system


def proportional_memory(root):
    """Bytes of memory of the tree; what processes share is split among them (PSS)."""
    total = 0
    for pid in tree(root):
        try:
            for line in pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
        except OSError:
            pass
    return total


class PeakMemory:
    """Looks at the memory of a tree twice a second and remembers the most."""

    def __init__(self, root):
        self.most = 0
        self._root = root
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self):
        while True:
            self.most = max(self.most, proportional_memory(self._root))
            if self._stop.wait(0.5):
                return

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()
        self.most = max(self.most, proportional_memory(self._root))
