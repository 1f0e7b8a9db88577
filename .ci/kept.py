"""Checks that a run is complete and kept enough pairs: kept.py SUMMARY_JSON LEAST"""

import json
import sys


def main(path, least):
    with open(path) as file:
        summary = json.load(file)
    if not summary["complete"]:
        sys.exit(f"{path}: the run is not complete")
    kept = sum(split["pairs"] for split in summary["splits"])
    if kept < int(least):
        sys.exit(f"{path}: the run kept {kept} pairs of at least {least} expected: see the thresholds of stages.filter and report.html")
    print(f"kept {kept} pairs, at least {least} expected")


if __name__ == "__main__":
    main(*sys.argv[1:])
