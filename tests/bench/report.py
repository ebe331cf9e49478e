"""The machine, the table and the summary of a measurement."""

import os
import pathlib
import platform
import statistics
import time

# Measured elsewhere and at another time, on two cores, with the same source and sink. For orientation only.
PUBLISHED = [
    ("KumoMTA, in memory until the first failure", False, {1: (2230, 0.65), 10: (1890, 0.78), 100: (1110, 0.97)}),
    ("KumoMTA, default (not synced)", False, {1: (1950, 0.80), 10: (1550, 0.91), 100: (910, 1.32)}),
    ("KumoMTA, synced per message", False, {1: (980, 1.23), 10: (800, 1.48), 100: (510, 2.02)}),
    ("KumoMTA, not synced", True, {10: (870, 1.74)}),
    ("Postfix 3.7", False, {1: (750, 1.98), 10: (630, 2.42), 100: (390, 3.51)}),
]


def _first(path, key):
    for line in pathlib.Path(path).read_text().splitlines():
        if line.startswith(key):
            return line.split(":", 1)[1].strip() if ":" in line else line.split("=", 1)[1].strip('"')
    return "unknown"


def syncs_per_second(folder, seconds=1.0):
    """How many appends of 1 KB, each followed by fdatasync, the disk takes in a second."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "syncs"
    count, end = 0, time.monotonic() + seconds
    with open(path, "wb", buffering=0) as file:
        while time.monotonic() < end:
            file.write(b"x" * 1024)
            os.fdatasync(file.fileno())
            count += 1
    path.unlink()
    return round(count / seconds)


def machine(scratch):
    return {
        "processor": _first("/proc/cpuinfo", "model name"),
        "cores": os.cpu_count(),
        "memory_mib": int(_first("/proc/meminfo", "MemTotal").split()[0]) // 1024,
        "system": _first("/etc/os-release", "PRETTY_NAME"),
        "kernel": platform.release(),
        "fdatasync_per_second": syncs_per_second(scratch),
        "load_before": round(os.getloadavg()[0], 2),
    }


def heading(machine, options):
    lines = [
        f"{machine['processor']}, {machine['cores']} cores, {machine['system']}, kernel {machine['kernel']}; "
        f"the disk takes {machine['fdatasync_per_second']} synced appends a second",
        f"{options.sessions} sessions in; source, server and sink share the cores; {options.runs} runs each",
    ]
    if machine["load_before"] > 0.5:
        lines.append(f"remark: the machine was busy before (load {machine['load_before']}); "
                     "ratios and CPU time suffer less from that than rates")
    return "\n".join(lines)


def _name(result):
    return result["server"] + (" signed" if result["signed"] else "")


def progress(result):
    text = (f"  run {result['run']}  {_name(result):<16} {result['size'] // 1024:>4} KB  "
            f"{result['accepted_per_second']:7.0f} accepted/s  {result['deliveries_per_second']:7.0f} delivered/s  "
            f"{result['cpu_ms_per_message']:6.2f} CPU-ms  {result['peak_memory_mib']:6.0f} MiB")
    return text + (f"  {result['surplus']} DUPLICATES" if result["surplus"] else "")


def summary(machine, options, results):
    """Medians and bests by server, signature and size; ratios against Postfix of the same size."""
    groups = {}
    for result in results:
        groups.setdefault((result["server"], result["signed"], result["size"]), []).append(result)
    rows = []
    for (server, signed, size), runs in groups.items():
        rates = [run["deliveries_per_second"] for run in runs]
        cpu = [run["cpu_ms_per_message"] for run in runs]
        rows.append({
            "server": server,
            "size": size,
            "signed": signed,
            "runs": len(runs),
            "messages": sum(run["messages"] for run in runs),
            "deliveries_per_second": round(statistics.median(rates), 1),
            "deliveries_per_second_best": round(max(rates), 1),
            "accepted_per_second": round(statistics.median(run["accepted_per_second"] for run in runs), 1),
            "cpu_ms_per_message": round(statistics.median(cpu), 3),
            "cpu_ms_per_message_best": round(min(cpu), 3),
            "source_and_sink_cpu_ms_per_message": round(
                statistics.median(run["source_and_sink_cpu_ms_per_message"] for run in runs), 3),
            "idle_memory_mib": round(statistics.median(run["idle_memory_mib"] for run in runs), 1),
            "peak_memory_mib": round(max(run["peak_memory_mib"] for run in runs), 1),
            "surplus": sum(run["surplus"] for run in runs),
        })
    postfix = {row["size"]: row for row in rows if row["server"] == "postfix"}
    for row in rows:
        peer = postfix.get(row["size"])
        if peer and row["server"] != "postfix":
            row["deliveries_ratio_to_postfix"] = round(
                row["deliveries_per_second"] / peer["deliveries_per_second"], 2)
            row["cpu_ratio_to_postfix"] = round(row["cpu_ms_per_message"] / peer["cpu_ms_per_message"], 2)
    rows.sort(key=lambda row: (row["size"], row["server"], row["signed"]))
    return {"machine": machine, "sessions": options.sessions, "results": rows, "runs": results}


def table(summary):
    lines = ["", "| Server | Signed | KB | Accepted/s | Delivered/s, median (best) | of Postfix | "
             "CPU-ms a message, median (best) | of Postfix | Peak MiB |",
             "| --- | --- | --: | --: | --: | --: | --: | --: | --: |"]
    for row in summary["results"]:
        rate = row.get("deliveries_ratio_to_postfix")
        cpu = row.get("cpu_ratio_to_postfix")
        lines.append(
            f"| {row['server']} | {'RSA-2048' if row['signed'] else 'no'} | {row['size'] // 1024} "
            f"| {row['accepted_per_second']:,.0f} "
            f"| {row['deliveries_per_second']:,.0f} ({row['deliveries_per_second_best']:,.0f}) "
            f"| {f'{rate:.2f} ×' if rate else ''} "
            f"| {row['cpu_ms_per_message']:.2f} ({row['cpu_ms_per_message_best']:.2f}) "
            f"| {f'{cpu:.2f} ×' if cpu else ''} | {row['peak_memory_mib']:.0f} |")
    ends = [row["source_and_sink_cpu_ms_per_message"] for row in summary["results"]]
    if ends:
        lines += ["", f"Source and sink together took {min(ends):.2f} to {max(ends):.2f} CPU-ms a message, "
                  "which is in no server's figure."]
    lines += ["", "Published orientation, not this run (another day, a like machine with two cores):", "",
              "| Server | Signed | Delivered/s 1 / 10 / 100 KB | CPU-ms a message |", "| --- | --- | --: | --: |"]
    for server, signed, figures in PUBLISHED:
        column = lambda index, form: " / ".join(form.format(figures[size][index]) if size in figures else "–"
                                                for size in (1, 10, 100))
        lines.append(f"| {server} | {'RSA-2048' if signed else 'no'} | {column(0, '{:,}')} | {column(1, '{:.2f}')} |")
    if surplus := sum(row["surplus"] for row in summary["results"]):
        lines += ["", f"remark: {surplus} messages arrived more than once"]
    return "\n".join(lines)
