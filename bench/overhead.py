#!/usr/bin/env python3
"""Overhead, side by side: the same durable tasks on ip2p, Ray, Dask distributed and DataTrove, in turn.

    cargo build --release --workspace --bins
    python3 -m venv /tmp/peers && /tmp/peers/bin/pip install -r bench/requirements.txt
    python3 bench/overhead.py target/release/overhead --python /tmp/peers/bin/python

Needs Linux. A system that is not installed is left out, which is said. Prints Markdown; docs/performance.md says what
is measured.
"""
import argparse
import collections
import ctypes
import datetime
import json
import os
import pathlib
import platform
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

from durable_task import create, durable, payload

HERE = pathlib.Path(__file__).resolve().parent
SYSTEMS = {"ip2p": "ip2p", "ip2p-50": "ip2p, 50 tasks a partition", "ray": "Ray", "dask": "Dask distributed", "datatrove": "DataTrove"}
# Tasks in a partition of ip2p.
PARTITIONS = {"ip2p": 1, "ip2p-50": 50}
SHARES = [0, 50, 99, 100]
TICKS = os.sysconf("SC_CLK_TCK")
# Longest time that any step may take, in seconds.
PATIENCE = 900


def adopt_orphans():
    """Daemons whose parent ends stay below this process, so that none escapes the count."""
    if ctypes.CDLL(None, use_errno=True).prctl(36, 1, 0, 0, 0):
        raise SystemExit(f"prctl: {os.strerror(ctypes.get_errno())}")


def descendants():
    """Fields 4 and later of /proc/<pid>/stat of every process below this one."""
    stats, below = {}, collections.defaultdict(list)
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                text = open(f"/proc/{entry}/stat").read()
            except OSError:
                continue  # it has just ended
            # The name may hold spaces and parentheses.
            fields = text[text.rindex(")") + 2:].split()
            stats[int(entry)] = fields
            below[int(fields[1])].append(int(entry))
    found, todo = {}, list(below[os.getpid()])
    while todo:
        pid = todo.pop()
        found[pid] = stats[pid]
        todo += below[pid]
    return found


def cpu():
    """CPU seconds of all processes ever started by this one, those that have ended included."""
    ticks = sum(sum(map(int, fields[11:15])) for fields in descendants().values())
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return ticks / TICKS + ended.ru_utime + ended.ru_stime


def memory():
    """Bytes of all processes below this one, shared pages counted once among those that share them."""
    total = 0
    for pid in descendants():
        try:
            total += sum(int(line.split()[1]) for line in open(f"/proc/{pid}/smaps_rollup") if line.startswith("Pss:"))
        except OSError:
            pass
    return total * 1024


def end_all():
    """Waits for everything below this process, and ends what does not end by itself."""
    for how in [None, signal.SIGTERM, signal.SIGKILL]:
        until = time.monotonic() + 20
        while time.monotonic() < until:
            try:
                if os.waitpid(-1, os.WNOHANG)[0] == 0:
                    time.sleep(0.05)
            except ChildProcessError:
                return
        for pid in descendants() if how else []:
            try:
                os.kill(pid, how)
            except OSError:
                pass


class Store:
    """The store of one system: where each task's object and commit are."""

    def __init__(self, system, folder):
        self.folder, self.partition = pathlib.Path(folder), PARTITIONS.get(system)
        self.stage = next(self.folder.glob("prompts/*/"), None)

    def commits(self):
        """What is committed: lists of (key, bytes) by task."""
        found = collections.defaultdict(list)
        if self.partition:
            for manifest in map(read_json, self.folder.glob("prompts/*/manifests/p*.json")):
                for chunk in manifest["chunks"]:
                    task = manifest["partition"] * self.partition + chunk["start"]
                    found[task] += [(o["key"], o["bytes"]) for o in read_json(self.chunk(task))["objects"]]
        for commit in map(read_json, self.folder.glob("commits/*.json")):
            found[commit["task"]] += [(o["key"], o["bytes"]) for o in commit["objects"]]
        return found

    def chunk(self, task):
        return self.stage / f"chunks/p{task // self.partition:08}-r{task % self.partition:08}.json"

    def objects(self, tasks):
        """The file of every task's object. Ends the measurement unless each task has one and its commit, and nobody else."""
        self.stage = next(self.folder.glob("prompts/*/"), None)
        commits = self.commits()
        if sorted(commits) != list(range(tasks)):
            raise SystemExit(f"{len(commits)} tasks of {tasks} are committed in {self.folder}: work was left out")
        for task, objects in commits.items():
            good = payload(task)
            if len(objects) != 1 or objects[0][1] != len(good) or (self.folder / objects[0][0]).read_bytes() != good:
                raise SystemExit(f"the object of task {task} in {self.folder} is not what it should be: {objects}")
        return {task: self.folder / objects[0][0] for task, objects in commits.items()}

    def forget(self, kept, tasks):
        """Makes all but the first `kept` tasks undone: nothing of them stays, as if they had not been begun."""
        for task in reversed(range(kept, tasks)):
            if self.partition:
                (self.stage / f"manifests/p{task // self.partition:08}.json").unlink(missing_ok=True)
                for o in read_json(self.chunk(task))["objects"]:
                    (self.folder / o["key"]).unlink()
                self.chunk(task).unlink()
                continue
            for file in [f"commits/{task:08}.json", f"data/{task:08}.txt"]:
                (self.folder / file).unlink()
            for file in [f"completions/{task:05}", f"stats/{task:05}.json", f"logs/task_{task:05}.log"]:
                (self.folder / "logs" / file).unlink(missing_ok=True)


def read_json(file):
    return json.loads(file.read_bytes())


def command(a, system, store, tasks, wait_ms, gate):
    given = ["--store", str(store), "--tasks", str(tasks), "--workers", str(a.workers), "--wait-ms", str(wait_ms)]
    given += ["--gate", gate] if gate else []
    if system in PARTITIONS:
        return [a.program, "run", "--partition", str(PARTITIONS[system]), *given]
    return [a.python, str(HERE / "peers.py"), system, *given]


def said_done(process, log):
    """What the process says after `done`."""
    for line in process.stdout:
        if line.startswith("done"):
            return json.loads(line[4:] or "{}")
    raise SystemExit(f"{' '.join(process.args)} ended before its tasks were done:\n{pathlib.Path(log.name).read_text()[-3000:]}")


def started(arguments, log):
    environment = {**os.environ, "PYTHONPATH": str(HERE), "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
    return subprocess.Popen(
        arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=environment, start_new_session=True)


def live(a, system, store, tasks, wait_ms, gated):
    """One life of a system, until all tasks are done: its figures. With `gated`, the start is measured by itself."""
    figures, begin, before = {}, time.monotonic(), cpu()
    with tempfile.TemporaryDirectory() as gate, tempfile.NamedTemporaryFile() as log:
        process = started(command(a, system, store, tasks, wait_ms, gate if gated else None), log)
        if gated:
            while len(os.listdir(gate)) < a.workers:
                if process.poll() is not None or time.monotonic() > begin + PATIENCE:
                    raise SystemExit(f"{system} does not start:\n{pathlib.Path(log.name).read_text()[-3000:]}")
                time.sleep(0.01)
            # What is left of the start is over before the measurement begins.
            time.sleep(1)
            figures |= {"start_wall": time.monotonic() - begin - 1, "start_cpu": cpu() - before}
            figures |= {"memory": memory(), "processes": len(descendants())}
            before, begin = cpu(), time.monotonic()
            pathlib.Path(gate, "go").touch()
        figures |= said_done(process, log)
        figures |= {"wall": time.monotonic() - begin, "cpu": cpu() - before}
        process.stdin.close()
        end_all()
        process.returncode = 0
    return figures


def identity(objects):
    """What a file that is written again changes."""
    return {task: (file.stat().st_ino, file.stat().st_mtime_ns) for task, file in objects.items()}


def trial(a, system, folder):
    """All of one system: no-op and waiting tasks from nothing, then the no-op store resumed at several shares."""
    figures = {}
    for name, tasks, wait in [("wait", a.wait_tasks, a.wait_ms), ("no-op", a.tasks, 0)]:
        place = tempfile.mkdtemp(prefix=f"{system}-", dir=folder)
        figures[name] = live(a, system, place, tasks, wait, gated=True)
        store = Store(system, place)
        objects = store.objects(tasks)
        if name == "no-op":
            for share in sorted(SHARES, reverse=True):
                kept = tasks * share // 100
                store.forget(kept, tasks)
                before = identity({task: objects[task] for task in range(kept)})
                figures[f"resume {share}"] = live(a, system, place, tasks, 0, gated=False)
                objects = store.objects(tasks)
                if before != identity({task: objects[task] for task in range(kept)}):
                    raise SystemExit(f"{system} did tasks again that were done")
        shutil.rmtree(place)
    return figures


def large_resume(a, folder):
    """ip2p alone: a run of so many tasks, all but `left` of them committed."""
    rows = []
    for digests in [True, False]:
        place = tempfile.mkdtemp(prefix="large-", dir=folder)
        lost = [] if digests else ["--without-digests"]
        subprocess.run([a.program, "fill", "--store", place, "--tasks", str(a.large), *lost], check=True, stdout=subprocess.DEVNULL)
        for left in [0, 1]:
            found = []
            for _ in range(a.trials):
                Store("ip2p", place).forget(a.large - left, a.large)
                for file in [] if digests else pathlib.Path(place).glob("prompts/*/digests/*"):
                    file.unlink()
                found.append(live(a, "ip2p", place, a.large, 0, gated=False))
                if found[-1]["committed"] != a.large or found[-1]["done_before"] != a.large - left:
                    raise SystemExit(f"ip2p found {found[-1]}")
            rows.append((digests, left, found))
        shutil.rmtree(place)
    return rows


def spread(values, form):
    values = sorted(values)
    return f"{form(statistics.median(values))} ({form(values[0])} to {form(values[-1])})"


def table(head, rows):
    print(f"\n| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")


def seconds(value):
    return f"{value:.2f} s"


def number(value):
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def report_work(a, results, name, tasks):
    rates = {system: [tasks / t[name]["wall"] for t in trials] for system, trials in results.items()}
    costs = {system: [t[name]["cpu"] / tasks * 1000 for t in trials] for system, trials in results.items()}

    def against(figures, system, inverse):
        if "ray" not in figures:
            return "-"
        ratio = statistics.median(figures[system]) / statistics.median(figures["ray"])
        return f"{number(1 / ratio if inverse else ratio)} x"
    rows = [[
        SYSTEMS[system], spread(rates[system], number), against(rates, system, False), spread(costs[system], lambda v: f"{v:.2f} ms"),
        against(costs, system, True)] for system in results]
    table([f"{name}, {tasks} tasks", "tasks per second", "Ray's rate", "CPU per task", "less CPU than Ray"], rows)


def report_start(results):
    def column(trials, name, form):
        return spread([t["no-op"][name] for t in trials], form)
    rows = [[
        SYSTEMS[system], column(trials, "start_wall", seconds), column(trials, "start_cpu", seconds),
        column(trials, "processes", number), column(trials, "memory", lambda v: f"{v / 1e6:.0f} MB")] for system, trials in results.items()]
    table(["start", "wall", "CPU", "processes", "memory"], rows)


def report_resume(a, results):
    for name, what in [("wall", "wall"), ("cpu", "CPU")]:
        rows = [[SYSTEMS[system], *(spread([t[f"resume {share}"][name] for t in trials], seconds) for share in SHARES)]
                for system, trials in results.items()]
        table([f"resume of {a.tasks} no-op tasks, {what}", *(f"{share}% done" for share in SHARES)], rows)


def report_large(a, rows):
    def column(found, name):
        return spread([f[name] for f in found], seconds)
    table(["resume of ip2p", "store read", "all, from the start of the process", "CPU"], [
        [f"{a.large:,} partitions, {left} left, {'with' if digests else 'without'} digests", column(found, "recovered_seconds"),
         column(found, "wall"), column(found, "cpu")] for digests, left, found in rows])


def installed(a):
    """The systems that can run, with their versions."""
    found = dict.fromkeys(PARTITIONS, "")
    for system, module in [("ray", "ray"), ("dask", "distributed"), ("datatrove", "datatrove")]:
        query = f"import {module}, importlib.metadata as m; print(m.version('{module}'))"
        asked = subprocess.run([a.python, "-c", query], capture_output=True, text=True)
        if asked.returncode == 0:
            found[system] = asked.stdout.strip()
        else:
            why = asked.stderr.strip().splitlines()[-1:] or ["it does not load"]
            print(f"{SYSTEMS[system]} is left out: {why[0]}. Install bench/requirements.txt for {a.python}", file=sys.stderr)
    return {system: version for system, version in found.items() if system in a.systems}


def price_of_a_file(folder):
    """Median milliseconds of writing one durable file."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        taken = []
        for i in range(100):
            begin = time.monotonic()
            durable(f"{place}/{i}", payload(i), create)
            taken.append(time.monotonic() - begin)
    return statistics.median(taken) * 1000


def file_system(folder):
    lines = [line.split()[1:3] for line in open("/proc/mounts")]
    path = os.path.realpath(folder)
    under = [(len(place), kind) for place, kind in lines if path == place or path.startswith(place.rstrip("/") + "/")]
    return max(under)[1]


def machine():
    names = [line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")]
    return f"{len(os.sched_getaffinity(0))} cores of {names[0] if names else platform.machine()}"


def load():
    return " ".join(f"{value:.2f}" for value in os.getloadavg())


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("program", help="the program `overhead` of this workspace")
    p.add_argument("--python", default=sys.executable, help="a Python with bench/requirements.txt installed")
    p.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    p.add_argument("--folder", action="append", help="where stores are made; may be given again [default: here and /dev/shm]")
    p.add_argument("--trials", type=int, default=5)
    p.add_argument("--workers", type=int, default=2)
    p.add_argument("--tasks", type=int, default=2000, help="no-op tasks")
    p.add_argument("--wait-tasks", type=int, default=200)
    p.add_argument("--wait-ms", type=int, default=50)
    p.add_argument("--large", type=int, default=100_000, help="partitions of ip2p's own large resume; 0: none")
    p.add_argument("--raw", help="file for every figure of every trial, in JSON")
    a = p.parse_args()
    a.folder = a.folder or [os.getcwd(), "/dev/shm"]
    a.program = os.path.abspath(a.program)
    # A measurement takes long: every table appears when it is known.
    sys.stdout.reconfigure(line_buffering=True)
    for place in [place for place in a.folder if not os.path.isdir(place)]:
        p.error(f"--folder {place}: there is no such folder")
    if shutil.which(a.program) is None:
        p.error(f"{a.program} is no program: cargo build --release --workspace --bins makes it")
    return a


def main():
    a = arguments()
    adopt_orphans()
    versions = installed(a)
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, cwd=HERE).stdout.strip()
    names = ", ".join(f"{SYSTEMS[system]} {version}" for system, version in versions.items() if version)
    print(f"{machine()}, commit {commit}, {datetime.date.today()}, {a.trials} trials: median (least to most). {names}. "
          f"{a.workers} workers. Load average at the start: {load()}")
    raw = {}
    for folder in a.folder:
        place = tempfile.mkdtemp(prefix="overhead-", dir=folder)
        price = price_of_a_file(place)
        results = {system: [] for system in versions}
        for turn in range(a.trials):
            order = list(versions)[turn % len(versions):] + list(versions)[:turn % len(versions)]
            for system in order:
                print(f"{folder}: trial {turn + 1} of {a.trials}, {system}, load average {load()}", file=sys.stderr)
                results[system].append(trial(a, system, place))
        print(f"\nStores on {file_system(folder)}, where a durable file takes {price:.2f} ms:")
        report_work(a, results, "no-op", a.tasks)
        report_work(a, results, "wait", a.wait_tasks)
        report_start(results)
        report_resume(a, results)
        large = large_resume(a, place) if a.large and "ip2p" in versions else []
        if large:
            report_large(a, large)
        shutil.rmtree(place)
        raw[folder] = {"trials": results, "large": large}
    print(f"\nLoad average at the end: {load()}")
    if a.raw:
        pathlib.Path(a.raw).write_text(json.dumps(raw, indent=1))


if __name__ == "__main__":
    main()
