"""`skedge-loader`: makes, verifies, pins and attaches the eBPF programs, then exits (root, short-lived)."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from skedge.core.errors import ExitCode, HostError, SkedgeError
from skedge.core.model import EngineKind
from skedge.core.observed import ProgramsReport
from skedge.dataplane import engine_choice
from skedge.dataplane.bpf import pins, programs_report
from skedge.loader import bytecode, host_requirements, old_placements
from skedge.loader.compiling.sources import compilations
from skedge.loader.loading import GROUP, NAT_FLOWS, PIN_DIR, Loader, Options
from skedge.loader.refusals import RefusedBefore

__all__ = ["Loader", "Options", "main"]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="skedge-loader", description="Load skedge's eBPF programs into this kernel.")
    parser.add_argument("action", choices=("load", "withdraw", "unload", "status", "build"))
    parser.add_argument("--pin-dir", type=Path, default=Path(PIN_DIR), help="directory on bpffs (default %(default)s)")
    parser.add_argument("--cgroup", help="cgroup2 directory to attach to (default: the root, from the mount table)")
    parser.add_argument("--group", default=GROUP, help="group that may use the pins (default %(default)s)")
    parser.add_argument("--force", action="store_true", help="compile and replace even when nothing changed")
    parser.add_argument(
        "--again", action="store_true", help="try also what was refused before, by this kernel or by the compiler"
    )
    parser.add_argument(
        "--keep", action="store_true", help="where new programs cannot be loaded and others serve: say so, and succeed"
    )
    parser.add_argument(
        "--cache", type=Path, default=bytecode.CACHE, help="this host's own bytecode (default %(default)s)"
    )
    parser.add_argument(
        "--bytecode",
        type=Path,
        default=bytecode.SHIPPED,
        help="the release's bytecode, which build writes and load reads (default %(default)s)",
    )
    parser.add_argument(
        "--nat-flows", type=int, default=NAT_FLOWS, metavar="N", help="room for flows of the LAN (default %(default)s)"
    )
    parser.add_argument(
        "--engine",
        type=EngineKind,
        choices=list(EngineKind),
        default=EngineKind.EBPF,
        help="auto: load where this host can, else let IPVS serve (default %(default)s)",
    )
    parser.add_argument(
        "--verdict",
        type=Path,
        default=engine_choice.VERDICT,
        help="where to write which engine it is (default %(default)s)",
    )
    parser.add_argument("--pick-log", type=int, default=1, metavar="N", help="record the last N (2^k) picks; 1 is off")
    return parser


def _run(arguments: argparse.Namespace) -> ExitCode:
    if arguments.pick_log < 1 or arguments.pick_log & (arguments.pick_log - 1):
        raise HostError(f"--pick-log {arguments.pick_log}: must be a power of two")
    if arguments.nat_flows < 1:
        raise HostError(f"--nat-flows {arguments.nat_flows}: must be at least 1")
    options = Options(arguments.pin_dir, arguments.cgroup, arguments.group, arguments.pick_log, arguments.force)
    options = replace(
        options,
        nat_flows=arguments.nat_flows,
        cache=arguments.cache,
        shipped=arguments.bytecode,
        again=arguments.again,
    )
    if arguments.action == "build":
        return _build(arguments.bytecode, options)
    if arguments.action == "status":
        states = Loader(options).status()
        for name, state in states.items():
            print(f"{name:24} {state}")
        return ExitCode.OK if set(states.values()) <= {"loaded", "attached"} else ExitCode.DEGRADED
    loader = Loader(options)
    if arguments.action == "load":
        changed = _load(arguments, options)
    else:
        changed = {"withdraw": loader.withdraw, "unload": loader.unload}[arguments.action]()
    print(f"{arguments.action}: {'changed' if changed else 'nothing to do'}")
    return ExitCode.OK


def _build(path: Path, options: Options) -> ExitCode:
    """Compile all programs into one file, for hosts of any kernel."""
    host_requirements.check_root()
    both = {
        one.digest: one
        for programs in (old_placements.alone(options.programs), old_placements.beside(options.programs))
        for one in compilations(programs, options.pick_log)
    }
    wanted = tuple(both.values())
    linked = host_requirements.headers_are_linked()
    try:
        found = bytecode.obtain(wanted, options.cache, None, again=options.force)
    finally:
        if not linked:
            host_requirements.remove_headers()
    bytecode.write(path, found.units)
    print(f"build: {path}, {path.stat().st_size} bytes, {found.origin}")
    return ExitCode.OK


def _load(arguments: argparse.Namespace, options: Options) -> bool:
    """Load for the engine that is configured, or that this host can run; return whether anything changed."""
    host_requirements.check_root()
    serves = engine_choice.serving(arguments.pin_dir)
    told = arguments.verdict.parent
    changed = False

    def load() -> None:
        nonlocal changed
        loader = Loader(options)
        try:
            changed = loader.load()
        except SkedgeError as error:
            if serves is not EngineKind.EBPF:
                loader.leave_no_directory()
                raise
            before = programs_report.read(told)
            programs_report.write(replace(before, refused=str(error)), told)
            if not arguments.keep:
                raise
            print(f"skedge-loader: {_said(error)}; the programs from before go on", file=sys.stderr)
        else:
            report = loader.report if changed else replace(programs_report.read(told), refused="")
            programs_report.write(report, told)

    verdict = engine_choice.decide(arguments.engine, serves, load)
    if verdict.engine is EngineKind.IPVS:
        pins.lend(options.pin_dir, options.group)
        programs_report.write(ProgramsReport(), told)  # none of ours run
    engine_choice.write(verdict, arguments.verdict)
    if arguments.engine is not EngineKind.EBPF:
        print(f"engine {verdict.engine}: {verdict.why}")
    return changed


def _said(error: SkedgeError) -> str:
    before = isinstance(error, RefusedBefore)
    return f"{error} (tried before; `skedge-loader load --again` tries again)" if before else str(error)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; errors are one sentence on stderr."""
    arguments = _parser().parse_args(argv)
    try:
        return _run(arguments)
    except SkedgeError as error:
        print(f"skedge-loader: {_said(error)}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
