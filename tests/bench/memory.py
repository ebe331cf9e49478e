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


def main(options):
    from bench import Scratch

    server = servers.Postkeep(False)
    messages = options.memory
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
                started = time.monotonic()
                source = load.source(port, message_file, messages, options.sessions)
                _, problems = source.communicate()
                if source.returncode != 0:
                    raise RuntimeError(f"smtp-source: {problems.decode(errors='replace').strip()[-300:]}")
                seconds = time.monotonic() - started
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
    per_message = (full - empty) / messages
    whole = empty + per_message * GOAL_MESSAGES
    summary = {
        "messages": messages,
        "accepted_per_second": round(messages / seconds, 1),
        "empty_mib": round(empty / 2**20, 1),
        "full_mib": round(full / 2**20, 1),
        "peak_mib": round(peak.most / 2**20, 1),
        "bytes_per_message": round(per_message, 1),
        "restart_seconds": round(restart, 2),
        "after_restart_mib": round(again / 2**20, 1),
        "five_million_mib": round(whole / 2**20, 1),
        "five_million_is": "measured" if messages >= GOAL_MESSAGES else "extrapolated",
        "goal_met": whole <= GOAL_BYTES,
    }
    print(f"full: {summary['full_mib']} MiB, {summary['bytes_per_message']} bytes a message; peak while filling "
          f"{summary['peak_mib']} MiB; {summary['accepted_per_second']:.0f} accepted/s")
    print(f"restart: ready in {summary['restart_seconds']} s, then {summary['after_restart_mib']} MiB")
    print(f"five million deferred messages: {summary['five_million_mib']:.0f} MiB ({summary['five_million_is']}); "
          f"the goal is {GOAL_BYTES // 2**20} MiB")
    output = options.output.parent / "memory.json"
    os.makedirs(output.parent, exist_ok=True)
    output.write_text(json.dumps(summary, indent=2) + "\n")
    print(f"written to {output}")
    return 0 if summary["goal_met"] else 1
