"""The task that the other systems run in bench/overhead.py: a module of its own, so that they send its name and not its code."""
import json
import os
import pathlib
import time


def payload(number):
    """The bytes of a task's object: those of tests/src/bin/overhead/toy.rs."""
    return f"task {number}\n".ljust(1000).encode()


def durable(path, data, publish=os.rename):
    """A file that survives a power cut: contents and name are on the disk when this returns."""
    staged = f"{path}#1"
    file = os.open(staged, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    os.write(file, data)
    os.fsync(file)
    os.close(file)
    publish(staged, path)
    folder = os.open(os.path.dirname(path), os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)


def create(staged, path):
    """Fails if there is a file of this name."""
    os.link(staged, path)
    os.unlink(staged)


def task(store, wait, number):
    """Waits so many seconds, writes an object, then its commit, each as a local store of ip2p writes them."""
    if wait:
        time.sleep(wait)
    data = payload(number)
    durable(f"{store}/data/{number:08}.txt", data)
    commit = json.dumps({"task": number, "objects": [{"key": f"data/{number:08}.txt", "bytes": len(data)}]})
    durable(f"{store}/commits/{number:08}.json", commit.encode(), create)


def left(store, tasks):
    """The tasks without a commit."""
    done = set(os.listdir(f"{store}/commits"))
    return [n for n in range(tasks) if f"{n:08}.json" not in done]


def pass_gate(gate, names):
    """Says that these workers are ready, and waits for the file `go`."""
    for name in names:
        pathlib.Path(gate, f"ready-{name}").touch()
    while not os.path.exists(f"{gate}/go"):
        time.sleep(0.005)


passed = False


def datatrove_step(store, wait, gate, data, rank, world_size):
    """A step of a pipeline. DataTrove's workers start with their first tasks, so they wait for the others there."""
    global passed
    if gate and not passed:
        pass_gate(gate, [os.getpid()])
        passed = True
    task(store, wait, rank)
    return data
