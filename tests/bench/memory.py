"""Memory of a queue of deferred messages: fills postkeepd while nobody accepts, and looks at it."""

import json
import os
import time

import load
import measure
import servers

GOAL_MESSAGES = 5_000_000
GOAL_BYTES = 2**30

# Nothing is tried again while we look.
PATIENT = """
[stream.default]
retry = ["12h"]
expire-after = "4d"
"""


def settled(pid, patience=30.0):
    """The memory once it has stopped changing."""
    last, end = 0, time.monotonic() + patience
    while time.monotonic() < end:
        now = measure.proportional_memory(pid)
        if abs(now - last) < 2**20:
            return now
        last = now
        time.sleep(2)
    return last


def fill(port, message_file, messages, sessions):
    """Puts messages into the queue; the seconds that it took."""
    started = time.monotonic()
    source = load.source(port, message_file, messages, sessions)
    _, problems = source.communicate()
    if source.returncode != 0:
        raise RuntimeError(f"smtp-source: {problems.decode(errors='replace').strip()[-300:]}")
    return time.monotonic() - started


def main(options):
    from bench import Scratch

    server = servers.Postkeep(False)
    half = options.memory // 2
    messages = 2 * half
    with Scratch(options.scratch, "memory", options.keep) as scratch:
        message_file = scratch / "message"
        message_file.write_text(load.message(1024))
        # Nobody listens there: every attempt fails at once, and the lane backs off.
        port, nobody = load.free_port(), load.free_port()
        pid = server.start(scratch, port, nobody, extra=PATIENT)
        try:
            empty = measure.proportional_memory(pid)
            print(f"empty: {empty / 2**20:.1f} MiB; {messages} messages go in", flush=True)
            with measure.PeakMemory(pid) as peak:
                seconds = fill(port, message_file, half, options.sessions)
                middle = settled(pid)
                seconds += fill(port, message_file, half, options.sessions)
                full = settled(pid)
        finally:
            server.stop()
        # The same queue after a restart: what is built from the spool alone.
        started = time.monotonic()
        pid = server.start(scratch, port, nobody, extra=PATIENT)
        try:
            restart = time.monotonic() - started
            again = settled(pid)
        finally:
            server.stop()
    # The first half also fills the memory that `[spool] memory` allows for bodies; the second shows what a
    # message costs once that is full.
    each = max(0.0, (full - middle) / half)
    each_again = (again - empty) / messages
    whole = full + each * (GOAL_MESSAGES - messages)
    whole_again = empty + each_again * GOAL_MESSAGES
    summary = {
        "messages": messages,
        "accepted_per_second": round(messages / seconds, 1),
        "empty_mib": round(empty / 2**20, 1),
        "half_full_mib": round(middle / 2**20, 1),
        "full_mib": round(full / 2**20, 1),
        "peak_mib": round(peak.most / 2**20, 1),
        "bytes_per_message": round(each, 1),
        "restart_seconds": round(restart, 2),
        "after_restart_mib": round(again / 2**20, 1),
        "bytes_per_message_after_restart": round(each_again, 1),
        "five_million_mib": round(whole / 2**20, 1),
        "five_million_after_restart_mib": round(whole_again / 2**20, 1),
        "five_million_are": "measured" if messages >= GOAL_MESSAGES else "extrapolated",
        "goal_met": max(whole, whole_again) <= GOAL_BYTES,
    }
    print(f"full: {summary['full_mib']} MiB, {each:.0f} bytes for each further message; peak while filling "
          f"{summary['peak_mib']} MiB; {summary['accepted_per_second']:.0f} accepted/s")
    print(f"restart: ready in {restart:.1f} s, then {summary['after_restart_mib']} MiB, {each_again:.0f} bytes a message")
    print(f"five million deferred messages ({summary['five_million_are']}): {summary['five_million_mib']:.0f} MiB, "
          f"after a restart {summary['five_million_after_restart_mib']:.0f} MiB; the goal is {GOAL_BYTES // 2**20} MiB")
    output = options.output.parent / "memory.json"
    os.makedirs(output.parent, exist_ok=True)
    output.write_text(json.dumps(summary, indent=2) + "\n")
    print(f"written to {output}")
    return 0 if summary["goal_met"] else 1
