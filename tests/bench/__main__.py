"""`make bench`: what a connection through a listener to a remote site costs, beside the same path without skedge.

Everything is measured on this machine in one run, all ways interleaved in each round, in changing order; a ratio is
made within a round, and the median over the rounds is shown with its interval. A target is met or missed only where
the whole interval says so; rounds are added until it does or the time is up. Clients are on an edge host (``host.py``),
then on the LAN behind one (``lan.py``). Streams are sent with cubic. Numbers go to ``.cache/bench/last.json`` too.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from pathlib import Path

from tests.bench import against, host, lan
from tests.bench.report import WORDS, WORSE, Report
from tests.bench.rounds import Budget
from tests.bench.run import OUT, Bench
from tests.lab import lab as labs
from tests.lab.sh import REPO, LabError, run, say

TOPOLOGY = "lan-pair"


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    top = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    top.add_argument("--rounds", type=int, default=15, help="of each row at least (15)")
    top.add_argument("--max-minutes", type=float, default=30.0, help="no further rounds after so many minutes (30)")
    top.add_argument("--rest", type=float, default=60.0, help="seconds to watch the controller at rest, at least (60)")
    top.add_argument("--only", choices=["host", "lan"], help="clients on the hosts, or on the LAN")
    top.add_argument("--strict", action="store_true", help="exit code 3 when a target is missed, or a row is worse")
    top.add_argument("--against", type=Path, metavar="CHECKOUT", help="compare with the version in another checkout")
    top.add_argument("--tolerance", type=float, default=2.0, help="percent that --against calls not worse (2)")
    return top


def arguments() -> argparse.Namespace:
    """Return what the command line says, or end with one sentence."""
    top = parser()
    args = top.parse_args()
    if args.against and not (args.against / "deploy.yml").is_file():
        top.error(f"--against {args.against}: that is no checkout of skedge")
    if args.against and args.only:
        top.error("--against compares clients on the hosts, and takes no --only")
    if args.rounds < 1:
        top.error("--rounds: one at least")
    return args


def measure(args: argparse.Namespace, report: Report, name: str) -> None:
    """Bring up the labs, measure, and take them away."""
    names = [name, f"{name}-old"] if args.against else [name]
    parts = against.PARTS if args.against else (args.only != "lan") * host.PARTS + (args.only != "host") * lan.PARTS
    checkouts = [REPO, args.against.resolve()] if args.against else [REPO]
    made = []
    try:
        for one in names:
            made.append(labs.create(one, TOPOLOGY))
            made[-1].up()
        budget = Budget(args.max_minutes * 60, parts, time.monotonic())
        benches = [Bench(*at, args.rounds, budget, report) for at in zip(made, checkouts, strict=True)]
        print(f"\nkernel {platform.release()}, {os.cpu_count()} processors, {args.rounds} rounds or more\n", flush=True)
        if args.against:
            against.rows(benches[0], benches[1], args.tolerance / 100)
            return
        if args.only != "lan":
            host.rows(benches[0], args.rest)
        if args.only != "host":
            lan.rows(benches[0])
    finally:
        for lab in made:
            lab.down()


def main() -> int:
    """Run everything; exit code 1 if it could not be measured, 3 if --strict and a target was missed."""
    args = arguments()
    name = os.environ.get("LAB") or "bench"
    report = Report(words=WORSE if args.against else WORDS)
    try:
        measure(args, report, "bench" if name == "demo" else name)
    except LabError as error:
        say(str(error))
        return 1
    OUT.mkdir(parents=True, exist_ok=True)
    commits = [_commit(path) for path in (REPO, args.against) if path]
    command = f"python -m tests.bench {' '.join(sys.argv[1:])}".strip()
    document = {"command": command, "commit": commits[0], "kernel": platform.release(), "rows": report.rows}
    if args.against:
        document["against"] = commits[1]
    (OUT / "last.json").write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    report.close()
    return 3 if report.missed() and args.strict else 0


def _commit(checkout: Path) -> str:
    return run("git", "-C", checkout, "rev-parse", "--short", "HEAD", check=False).strip()


if __name__ == "__main__":
    sys.exit(main())
