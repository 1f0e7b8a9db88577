#!/usr/bin/env python3
"""Runs the tasks of bench/overhead.py on another system; started by that script.

Every system is used as its first page of documentation shows, with its defaults, and with so many workers of one task
at a time.
"""
import argparse
import functools
import os
import sys
import time

from durable_task import datatrove_step, left, pass_gate, task


def with_ray(a):
    import ray
    # The dashboard and the copying of logs are no part of running tasks.
    ray.init(address="local", num_cpus=a.workers, include_dashboard=False, log_to_driver=False)
    if a.gate:
        # As many at the same time as there are workers, so that all have started.
        ray.get([ray.remote(lambda: time.sleep(1)).remote() for _ in range(a.workers)])
        pass_gate(a.gate, range(a.workers))
    remote = ray.remote(task)
    # Ray does not know what an earlier run has done; neither does Dask.
    ray.get([remote.remote(a.store, a.wait, n) for n in left(a.store, a.tasks)])
    return ray.shutdown


def with_dask(a):
    from distributed import Client, LocalCluster
    cluster = LocalCluster(n_workers=a.workers, threads_per_worker=1, processes=True, dashboard_address=None)
    client = Client(cluster)
    if a.gate:
        client.gather(client.map(time.sleep, [1] * a.workers, pure=False))
        pass_gate(a.gate, range(a.workers))
    client.gather(client.map(functools.partial(task, a.store, a.wait), left(a.store, a.tasks), pure=False))

    def close():
        client.close()
        cluster.close()
    return close


def with_datatrove(a):
    from datatrove.executor import LocalPipelineExecutor
    step = functools.partial(datatrove_step, a.store, a.wait, a.gate)
    # Its own marks of completed tasks are in `logs`.
    LocalPipelineExecutor(pipeline=[step], tasks=a.tasks, workers=a.workers, logging_dir=f"{a.store}/logs").run()
    return lambda: None


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("system", choices=["ray", "dask", "datatrove"])
    p.add_argument("--store", required=True)
    p.add_argument("--tasks", type=int, required=True)
    p.add_argument("--workers", type=int, required=True)
    p.add_argument("--wait-ms", type=float, default=0)
    p.add_argument("--gate")
    a = p.parse_args()
    a.wait = a.wait_ms / 1000
    for folder in ["data", "commits"]:
        os.makedirs(f"{a.store}/{folder}", exist_ok=True)
    close = {"ray": with_ray, "dask": with_dask, "datatrove": with_datatrove}[a.system](a)
    print("done {}", flush=True)
    # Whoever measures reads the CPU time of all processes before they end.
    sys.stdin.read()
    close()


if __name__ == "__main__":
    main()
