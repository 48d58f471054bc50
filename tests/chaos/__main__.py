"""``python -m tests.chaos``: faults in a lab of its own, under load, in an order that a seed makes.

Prints a row for each fault and service: what clients saw of it, beside the most that they may see. Exits with 1 when a
row is out of bounds, with 2 when the lab cannot go on.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Iterator, Sequence

from tabulate import tabulate

from tests.chaos import network
from tests.chaos.faults import FAULTS, UNSEEN, Fault, both
from tests.chaos.measure import Bounds, Episode, Row, rows
from tests.lab import lab as labs
from tests.lab.lab import Lab
from tests.lab.sh import LabError, environment_first, say

MEASURED = ("failed", "lost", "stall", "again", "served")
CALM_S = 2.0  # between two faults, once the network is at rest


def order(seed: int, passes: int | None = None) -> Iterator[Fault]:
    """Yield faults, each once before any comes again, in an order that the seed makes."""
    chance, done = random.Random(seed), 0
    while passes is None or done < passes:
        yield from chance.sample(FAULTS, len(FAULTS))
        done += 1


def make_faults(lab: Lab, seed: int, seconds: float, names: Sequence[str]) -> list[Episode]:
    """Make faults until the time is over, each at least once; return them with the calm before."""
    begin = time.monotonic()
    episodes = [Episode("none", begin, begin, both(UNSEEN))]
    time.sleep(CALM_S)
    for number, fault in enumerate(order(seed)):
        if number >= len(FAULTS) and time.monotonic() > begin + seconds:
            break
        if names and not any(name in fault.name for name in names):
            continue
        episodes.append(make_fault(lab, fault))
    return episodes


def make_fault(lab: Lab, fault: Fault) -> Episode:
    """Make one fault, take it back, and wait for the network to be itself again."""
    start = time.monotonic()
    fault.make(lab)
    time.sleep(max(0.0, start + fault.lasts - time.monotonic()))
    fault.mend(lab)
    mended = time.monotonic()
    trouble = network.settle(lab)
    say(f"{fault.name}: {trouble or f'at rest again after {time.monotonic() - mended:.1f} s'}")
    time.sleep(CALM_S)
    return Episode(fault.name, start, mended, fault.bounds, trouble)


def print_table(found: Sequence[Row], slack: float) -> bool:
    """Print the rows; return whether all are within bounds."""
    heads = ["fault", "clients of", "failed", "lost", "stall s", "again s", "served s", "", "why"]
    cells = []
    for row in found:
        bounds = row.episode.bounds.get(row.service, Bounds())
        measured = [_beside(getattr(row, name), getattr(bounds, name)) for name in MEASURED]
        why = ", ".join(f"{name} {count}" for name, count in row.why.most_common(3))
        cells.append([row.episode.fault, row.service, *measured, ", ".join(row.beyond(slack)) or "ok", why])
    print(tabulate(cells, heads, tablefmt="plain", disable_numparse=True))
    print(f"\nmeasured / the most that may be; times may be {slack:g} times as long" if slack != 1 else "")
    return not any(row.beyond(slack) for row in found)


def _beside(value: float, most: float | None) -> str:
    return f"{round(value, 2):g} / {'any' if most is None else f'{most:g}'}"


def run(lab: Lab, args: argparse.Namespace) -> bool:
    """Deploy, load, make faults, and judge."""
    lab.up()
    network.deploy(lab)
    for host in lab.plan.topology.hosts:
        network.start_servers(lab, host)
    network.require_settled(lab)
    network.start_clients(lab)
    time.sleep(CALM_S)
    episodes = make_faults(lab, args.seed, args.seconds, args.fault)
    said = network.stop_clients(lab)
    found = [row for service, (rate, pulse) in said.items() for row in rows(service, episodes, rate, pulse)]
    for service, (rate, pulse) in said.items():
        print(f"{service}: {rate['count']} connections in {rate['seconds']:.0f} s, {pulse['open']} held at the end")
    return print_table(sorted(found, key=lambda row: row.episode.start), args.slack)


def main() -> int:
    """Run, and take the lab down again unless it is to be kept."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--lab", default="chaos")
    parser.add_argument("--seconds", type=float, default=0, help="go on for so long; each fault comes once at least")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--slack", type=float, default=1.0, help="times may be so many times as long")
    parser.add_argument("--fault", action="append", default=[], help="only faults with this in their names")
    parser.add_argument("--keep", action="store_true", help="leave the lab up")
    args = parser.parse_args()
    environment_first()
    with labs.locked(args.lab):
        lab = labs.create(args.lab, "diamond")
        try:
            return 0 if run(lab, args) else 1
        except LabError as error:
            print(f"chaos: {error}", file=sys.stderr)
            return 2
        finally:
            if not args.keep:
                lab.down()


if __name__ == "__main__":
    sys.exit(main())
