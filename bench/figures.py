#!/usr/bin/env python3
"""Measures what a newcomer meets: the quickstart, the same run once more, and the plan of a large corpus.

    cargo build --release && python3 bench/figures.py target/release/ip2p-coordinator

Needs Linux and Python 3 alone. Prints a Markdown table with machine, commit and date.
"""
import argparse
import datetime
import json
import os
import platform
import resource
import subprocess
import tempfile
import threading
import time


def children(pid):
    """The process and all its descendants."""
    found, todo = [], [pid]
    while todo:
        p = todo.pop()
        found.append(p)
        try:
            for task in os.listdir(f"/proc/{p}/task"):
                todo += [int(c) for c in open(f"/proc/{p}/task/{task}/children").read().split()]
        except OSError:
            pass  # it has just ended
    return found


def proportional_memory(pid):
    """Bytes of a process, shared pages counted once among those that share them."""
    try:
        for line in open(f"/proc/{pid}/smaps_rollup"):
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def measured(command):
    """Runs a command: (wall seconds, CPU seconds, peak bytes of all its processes together)."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start, peak, over = time.monotonic(), [0], threading.Event()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)

    def watch():
        while not over.wait(0.1):
            peak[0] = max(peak[0], sum(map(proportional_memory, children(process.pid))))
    watcher = threading.Thread(target=watch)
    watcher.start()
    code = process.wait()
    wall = time.monotonic() - start
    over.set()
    watcher.join()
    if code:
        raise SystemExit(f"{' '.join(command)} ended with status {code}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, peak[0]


def planned(program, pipeline, captions):
    """Plans a corpus of so many captions, one in 50 a duplicate."""
    with tempfile.TemporaryDirectory() as work:
        corpus = os.path.join(work, "captions.jsonl")
        with open(corpus, "w") as file:
            for i in range(captions):
                n = i - 1 if i % 50 == 49 else i
                file.write(f'{{"caption": "a photograph of a red house by the sea, number {n} of a long series"}}\n')
        return measured([program, "plan", pipeline, "--set", f"store=file://{work}/out", "--set", f"corpus.path={corpus}"])


def machine():
    names = [line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")]
    return f"{len(os.sched_getaffinity(0))} cores of {names[0] if names else platform.machine()}"


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("program")
    a.add_argument("--pipeline", default="configs/quickstart.yaml")
    a.add_argument("--trials", type=int, default=3)
    a.add_argument("--captions", type=int, default=1_000_000, help="size of the corpus that is planned")
    a = a.parse_args()
    rows, kept = [], None
    for _ in range(a.trials):
        with tempfile.TemporaryDirectory() as work:
            run = [a.program, "run", a.pipeline, "--set", f"store=file://{work}"]
            first, again = measured(run), measured(run)
            rows.append((*first, again[0]))
            name = os.listdir(work)[0]
            summary = json.load(open(os.path.join(work, name, "summary.json")))
            kept = sum(split["pairs"] for split in summary["splits"])
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    print(f"{a.pipeline}, {machine()}, commit {commit}, {datetime.date.today()}, {a.trials} trials: median (least to most)\n")
    print("| figure | measured |\n|---|---|")

    def line(name, column, form):
        values = sorted(row[column] for row in rows)
        print(f"| {name} | {form(values[len(values) // 2])} ({form(values[0])} to {form(values[-1])}) |")
    line("whole run, wall time", 0, lambda v: f"{v:.1f} s")
    line("... CPU time of all processes", 1, lambda v: f"{v:.0f} s")
    line("... most memory of all processes together", 2, lambda v: f"{v / 1e6:.0f} MB")
    line("the finished run again", 3, lambda v: f"{v:.2f} s")
    print(f"| pairs kept | {kept} |")
    wall, cpu, peak = planned(a.program, a.pipeline, a.captions)
    print(f"| plan of {a.captions:,} captions | {wall:.1f} s, {cpu:.1f} s of CPU, {peak / 1e6:.0f} MB |")


if __name__ == "__main__":
    main()
