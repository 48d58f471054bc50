"""The lab's commands: ``python -m tests.lab up|down|status|inventory|cut|lose|heal|exec|start|stop|shell|…``.

The lab's name comes from ``LAB`` (default ``demo``).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

from tests.lab import image, net, vm
from tests.lab import lab as labs
from tests.lab.sh import LabError
from tests.lab.topology import DEFAULT_LAB


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    top = argparse.ArgumentParser(prog="python -m tests.lab", description=__doc__)
    top.add_argument("--lab", default=os.environ.get("LAB") or DEFAULT_LAB)
    commands = top.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="bring the lab up; what is up stays")
    up.add_argument("--topology", default="line", help="a name in tests/lab/topologies, or a file")
    commands.add_parser("down", help="remove every trace of the lab")
    commands.add_parser("status", help="list labs and hosts")
    commands.add_parser("inventory", help="print the directory to give to ansible-playbook -i")
    commands.add_parser("clean", help="remove every lab of this checkout, interrupted ones too")
    for name, what in (("cut", "drop all frames between two hosts"), ("heal", "take back cut and lose")):
        command = commands.add_parser(name, help=what)
        command.add_argument("hosts", nargs=2)
    lose = commands.add_parser("lose", help="drop a share of the frames between two hosts")
    lose.add_argument("hosts", nargs=2)
    lose.add_argument("percent", type=int)
    restart = commands.add_parser("restart", help="power a host off and boot it again")
    restart.add_argument("host")
    shell = commands.add_parser("shell", help="log in to a host")
    shell.add_argument("host")
    execute = commands.add_parser("exec", help="run a shell command on a host, or on a machine behind one")
    execute.add_argument("host")
    execute.add_argument("argv", nargs=argparse.REMAINDER)
    start = commands.add_parser("start", help="start a program on a machine behind a host; it goes on by itself")
    start.add_argument("host")
    start.add_argument("--listens", default="", help="wait for a listening socket, a filter of ss(8)")
    start.add_argument("argv", nargs=argparse.REMAINDER)
    stop = commands.add_parser("stop", help="kill all programs of a machine behind a host")
    stop.add_argument("host")
    return top


def main(argv: list[str] | None = None) -> int:
    """Run one command; exit code 0, that of the command run, or 1 with one sentence."""
    args = parser().parse_args(argv)
    try:
        return _run(args)
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1


def _run(args: argparse.Namespace) -> int:
    if args.command == "status":
        return _status()
    if args.command == "clean":
        labs.remove_all()
        image.remove_partial()
        vm.remove_partial()
        return 0
    if args.command == "up":
        with labs.locked(args.lab):
            labs.create(args.lab, args.topology).up()
        return 0
    if args.command == "down":
        with labs.locked(args.lab):
            lab = labs.find(args.lab)
            if lab is not None:
                lab.down()
        return 0
    return _use(labs.get(args.lab), args)


def _status() -> int:
    for name, entry in labs.registered().items():
        print(f"{name}: 10.77.{entry['slot']}.0/24, topology {entry['topology']}, of {entry['checkout']}")
        if entry["checkout"] == str(labs.REPO):
            print("".join(f"  {line}\n" for line in labs.get(name).status()), end="")
    return 0


def _use(lab: labs.Lab, args: argparse.Namespace) -> int:
    if args.command == "inventory":
        print(lab.directory / "inventory")
    elif args.command == "cut":
        net.cut(lab.plan, *args.hosts)
    elif args.command == "heal":
        net.heal(lab.plan, *args.hosts)
    elif args.command == "lose":
        net.lose(lab.plan, *args.hosts, args.percent)
    elif args.command == "restart":
        lab.restart(args.host)
    elif args.command == "shell":
        return subprocess.run(lab.ssh_argv(lab.host(args.host).name, "-t"), check=False).returncode
    elif args.command == "start":
        lab.lan(args.host).start(_words(args.argv), listens=args.listens)
    elif args.command == "stop":
        lab.lan(args.host).stop()
    elif args.host in (machine.name for machine in lab.plan.topology.machines):
        return subprocess.run(lab.lan(args.host).argv("sh", "-c", _words(args.argv)), check=False).returncode
    else:
        return subprocess.run([*lab.ssh_argv(lab.host(args.host).name), _words(args.argv)], check=False).returncode
    return 0


def _words(argv: list[str]) -> str:
    """Return the rest of a command line as the shell command that it is, as ssh(1) does."""
    if argv and argv[0].startswith("-") and argv[0] != "--":
        raise LabError(f"{argv[0]}: options come before the host's name, the command after --")
    return " ".join(argv[1:] if argv[:1] == ["--"] else argv)


if __name__ == "__main__":
    sys.exit(main())
