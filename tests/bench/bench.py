#!/usr/bin/env python3
"""Measures postkeepd beside Postfix in one go on one machine: smtp-source -> server -> smtp-sink.

Every server gets the same messages over the same number of connections and keeps the durability it
ships with. Rounds alternate the servers, so that a machine that grows slower or faster does so for
both. Prints a table with ratios and writes target/bench/summary.json. Standard library only.
"""

import argparse
import json
import os
import pathlib
import shutil
import sys
import tempfile
import time

import exports
import load
import measure
import memory
import report
import servers
import suppression

ROOT = servers.ROOT
# Octets that one run may put on the disk.
LARGEST_RUN = 4 << 30


class Stalled(RuntimeError):
    """Messages stopped arriving at the sink."""


def deliver(port, sink, message_file, messages, sessions, patience=60.0):
    """Sends and waits until all have arrived; (seconds until all were accepted, until all had arrived)."""
    before = sink.count()
    started = time.monotonic()
    source = load.source(port, message_file, messages, sessions)
    accepted = arrived = None
    seen, moved = before, started
    try:
        while arrived is None or accepted is None:
            now = time.monotonic()
            if accepted is None and source.poll() is not None:
                if source.returncode != 0:
                    raise Stalled(f"smtp-source: {source.stderr.read().decode(errors='replace').strip()[-300:]}")
                accepted = now - started
            count = sink.count()
            if count > seen:
                seen, moved = count, now
            if arrived is None and count - before >= messages:
                arrived = now - started
            if now - moved > patience:
                raise Stalled(f"{count - before} of {messages} messages arrived, then none for {patience:.0f} s")
            time.sleep(0.01)
    finally:
        load.stop(source)
        source.stderr.close()
    return accepted, arrived


class Scratch:
    """A new folder beneath target/bench for one instance, removed afterwards unless it is to be kept."""

    def __init__(self, base, name, keep):
        base.mkdir(parents=True, exist_ok=True)
        self.path = pathlib.Path(tempfile.mkdtemp(prefix=name.replace(" ", "-") + "-", dir=base))
        # Accounts other than ours must reach their files in it.
        self.path.chmod(0o755)
        self._keep = keep

    def __enter__(self):
        return self.path

    def __exit__(self, *_):
        if not self._keep:
            shutil.rmtree(self.path, ignore_errors=True)


def run(server, size, options):
    """One run of one server with one size: a dictionary of what was measured."""
    with Scratch(options.scratch, server.key, options.keep) as scratch:
        message_file = scratch / "message"
        message_file.write_text(load.message(size))
        port, sink_port = load.free_port(), load.free_port()
        os.sync()
        with load.Sink(sink_port) as sink:
            pid = server.start(scratch, port, sink_port)
            try:
                idle = measure.proportional_memory(pid)
                _, warm = deliver(port, sink, message_file, options.warm_up, options.sessions)
                # As many as fill the time, at the rate of the warm-up.
                messages = options.messages or max(1000, round(options.warm_up / warm * options.seconds, -2))
                messages = int(min(messages, LARGEST_RUN // size))
                with measure.PeakMemory(pid) as peak:
                    ends = measure.cpu_seconds(sink.process.pid) + measure.cpu_seconds_of_ended()
                    cpu = measure.cpu_seconds(pid)
                    accepted, arrived = deliver(port, sink, message_file, messages, options.sessions)
                    cpu = measure.cpu_seconds(pid) - cpu
                    ends = measure.cpu_seconds(sink.process.pid) + measure.cpu_seconds_of_ended() - ends
                # Whatever comes now was delivered twice.
                time.sleep(0.3)
                surplus = sink.count() - messages - options.warm_up
            finally:
                server.stop()
    return {
        "server": server.name,
        "signed": server.signed,
        "size": size,
        "messages": messages,
        "accepted_per_second": messages / accepted,
        "deliveries_per_second": messages / arrived,
        "cpu_ms_per_message": cpu * 1000 / messages,
        "source_and_sink_cpu_ms_per_message": ends * 1000 / messages,
        "idle_memory_mib": idle / 2**20,
        "peak_memory_mib": peak.most / 2**20,
        "surplus": surplus,
    }


def check(server, options):
    """Before anything is measured: one message must arrive whole, signed if and only if it should be."""
    with Scratch(options.scratch, server.key, options.keep) as scratch:
        message_file = scratch / "message"
        sent = load.message(10240)
        message_file.write_text(sent)
        port, sink_port = load.free_port(), load.free_port()
        # The sink drops its rights, and then does not reach into everybody's home.
        with tempfile.TemporaryDirectory(prefix="bench-received-") as dump, load.Sink(sink_port, dump=dump) as sink:
            os.chmod(dump, 0o777)
            server.start(scratch, port, sink_port)
            try:
                deliver(port, sink, message_file, 1, 1, patience=20.0)
            except Stalled as stalled:
                raise RuntimeError(f"{server.key}: {stalled} (--keep leaves its log)") from stalled
            finally:
                server.stop()
            texts = [file.read_text() for file in pathlib.Path(dump).iterdir()]
        received = [text for text in texts if "Subject: What this week" in text]
    if len(received) != 1:
        raise RuntimeError(f"{server.key}: {len(received)} messages arrived instead of one")
    body = sent.split("\n\n", 1)[1]
    if body.strip() not in received[0]:
        raise RuntimeError(f"{server.key}: the text did not arrive as it was sent")
    if ("DKIM-Signature:" in received[0]) != server.signed:
        raise RuntimeError(f"{server.key}: the message arrived {'un' if server.signed else ''}signed")


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--servers", default="postkeep,postkeep-signed,postfix",
                        help="postkeep, postkeep-signed, postfix; separated by commas (default: all)")
    parser.add_argument("--sizes", default="1,10,100", help="message sizes in KiB (default: 1,10,100)")
    parser.add_argument("--runs", type=int, default=3, help="runs of each server and size (default: 3)")
    parser.add_argument("--sessions", type=int, default=20, help="connections of the source (default: 20)")
    parser.add_argument("--seconds", type=float, default=8, help="length of a run, roughly (default: 8)")
    parser.add_argument("--messages", type=int, help="messages in a run, instead of a length")
    parser.add_argument("--warm-up", type=int, default=1000, help="messages before measuring (default: 1000)")
    parser.add_argument("--keep", action="store_true", help="leave the scratch folders, with logs, in target/bench")
    parser.add_argument("--output", type=pathlib.Path, default=ROOT / "target/bench/summary.json")
    parser.add_argument("--memory", nargs="?", type=int, const=200_000, metavar="N",
                        help="instead: memory of a queue of N deferred messages (default: 200000)")
    parser.add_argument("--suppression", type=int, default=10_000_000, metavar="N",
                        help="entries of the suppression list that is measured, too; 0: none (default: 10000000)")
    parser.add_argument("--exports", type=int, default=512, metavar="MIB",
                        help="size of the file that is encrypted for custodians and by rage, too; 0: none (default: 512)")
    options = parser.parse_args()
    options.scratch = pathlib.Path(os.environ.get("BENCH_SCRATCH", ROOT / "target/bench/scratch"))
    options.sizes = [int(size) * 1024 for size in options.sizes.split(",")]
    known = {"postkeep": lambda: servers.Postkeep(False), "postkeep-signed": lambda: servers.Postkeep(True),
             "postfix": servers.Postfix}
    names = options.servers.split(",")
    if unknown := [name for name in names if name not in known]:
        parser.error(f"no server is called {', '.join(unknown)}; known are {', '.join(known)}")
    options.servers = [known[name]() for name in names]
    return options


def main():
    options = parse()
    if options.memory is not None:
        return memory.main(options)
    machine = report.machine(options.scratch)
    print(report.heading(machine, options), flush=True)
    for server in options.servers:
        check(server, options)
    results, failures = [], []
    for turn in range(options.runs):
        for size in options.sizes:
            # Each round starts with another server.
            shift = turn % len(options.servers)
            for server in options.servers[shift:] + options.servers[:shift]:
                try:
                    result = run(server, size, options)
                except Stalled as stalled:
                    failures.append(f"{server.key}, {size // 1024} KB, run {turn + 1}: {stalled}")
                    print(f"error: {failures[-1]}", file=sys.stderr, flush=True)
                    continue
                results.append({"run": turn + 1, **result})
                print(report.progress(results[-1]), flush=True)
    summary = report.summary(machine, options, results)
    print(report.table(summary))
    if options.suppression:
        summary["suppression"] = suppression.measure(options)
    if options.exports:
        summary["exports"] = exports.measure(options)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(summary, indent=2) + "\n")
    print(f"\nwritten to {options.output}")
    return 1 if failures else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (RuntimeError, KeyboardInterrupt) as problem:
        sys.exit(f"error: {problem or 'interrupted'}")
