"""`skedge-loader`: compiles, verifies, pins and attaches the eBPF programs, then exits (root, short-lived).

The only place that imports bcc, and only when something must be compiled: the controller works on the pinned maps
through bpf(2) and never holds LLVM in memory. Loading twice changes nothing. A changed program replaces the attached
one atomically (LINK_UPDATE) on the same maps, so both versions must be right on them for a moment.
"""

from __future__ import annotations

import argparse
import errno
import fcntl
import hashlib
import os
import platform
import re
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from skedge.core.errors import DataplaneError, ExitCode, HostError, SkedgeError
from skedge.core.model import EngineKind
from skedge.dataplane import engine_choice
from skedge.dataplane.bpf import pins, syscall
from skedge.dataplane.bpf.btf import member_places
from skedge.dataplane.bpf.programs import PROGRAM_TABLE, PROGRAMS, Program
from skedge.dataplane.ebpf import layout_placement
from skedge.dataplane.ebpf.maps import LISTENERS_PIN, Maps
from skedge.loader import host_requirements, map_migration, old_placements

PIN_DIR = "/sys/fs/bpf/skedge"
GROUP = "skedge"
SOURCES = Path(__file__).resolve().parent.parent / "bpf"
NAT_FLOWS = 262144
_SO_NETNS_COOKIE = 71
_RP_FILTER = 8  # IPV4_DEVCONF_RP_FILTER
_PINNED_MAP = re.compile(r'PIN_DIR "/([a-z0-9_]+)"')
_INCLUDE = re.compile(r'\s*#include "([^"]+)"')


@dataclass(frozen=True, slots=True)
class Options:
    """What to load and where: ``pick_log`` entries (a power of two; 1 is off) record every pick for a replay.

    ``nat_flows`` sizes the flow table when it is made; one that is there keeps its size (and its flows) until unload.
    """

    pin_dir: Path = Path(PIN_DIR)
    cgroup: str | None = None
    group: str = GROUP
    pick_log: int = 1
    force: bool = False
    programs: tuple[Program, ...] = PROGRAMS
    nat_flows: int = NAT_FLOWS


def source_text(name: str) -> str:
    """Return a C file with our own headers in its place: bcc rewrites map calls in the main file only."""
    seen: set[str] = set()

    def lines(file: str) -> Iterator[str]:
        for line in (SOURCES / file).read_text(encoding="utf-8").splitlines():
            match = _INCLUDE.match(line)
            if match is None:
                yield line
            elif match[1] not in seen:
                seen.add(match[1])
                yield from lines(match[1])

    return "\n".join(lines(name)) + "\n"


def kernel_defines() -> Mapping[str, int]:
    """Return the offsets in the running kernel's structs that the programs are compiled with."""
    places = member_places(
        {
            "sock_common": ("skc_ipv6only", "skc_v6_rcv_saddr", "skc_tw_rcv_nxt"),
            "sock": ("sk_err", "sk_userlocks", "sk_max_ack_backlog"),
            "tcp_sock": ("total_retrans", "bpf_sock_ops_cb_flags"),
            "inet_connection_sock": ("icsk_accept_queue",),
            "request_sock_queue": ("qlen",),
            "sk_buff": ("dev",),
            "net_device": ("ip_ptr", "nd_net"),
            "in_device": ("cnf",),
            "ipv4_devconf": ("data",),
            "net": ("ipv4",),
            "netns_ipv4": ("devconf_all",),
        }
    )
    only, locks = places["sock_common", "skc_ipv6only"], places["sock", "sk_userlocks"]
    rp_filter = places["ipv4_devconf", "data"].byte + 4 * (_RP_FILTER - 1)
    return {
        "OFF_V6ONLY_BYTE": only.byte,
        "OFF_V6ONLY_BIT": only.bit,
        "OFF_USERLOCKS_BYTE": locks.byte,
        "OFF_USERLOCKS_BIT": locks.bit,
        "OFF_SK_ERR": places["sock", "sk_err"].byte,
        "OFF_TOTAL_RETRANS": places["tcp_sock", "total_retrans"].byte,
        "OFF_CB_FLAGS": places["tcp_sock", "bpf_sock_ops_cb_flags"].byte,
        "OFF_RCV_SADDR6": places["sock_common", "skc_v6_rcv_saddr"].byte,
        "OFF_TIME_WAIT_NEXT": places["sock_common", "skc_tw_rcv_nxt"].byte,
        "OFF_MAX_ACK_BACKLOG": places["sock", "sk_max_ack_backlog"].byte,
        "OFF_HALF_OPEN": places["inet_connection_sock", "icsk_accept_queue"].byte
        + places["request_sock_queue", "qlen"].byte,
        "OFF_SKB_DEV": places["sk_buff", "dev"].byte,
        "OFF_DEV_IN_DEVICE": places["net_device", "ip_ptr"].byte,
        "OFF_DEV_NET": places["net_device", "nd_net"].byte,
        "OFF_NET_DEVCONF_ALL": places["net", "ipv4"].byte + places["netns_ipv4", "devconf_all"].byte,
        "OFF_RP_FILTER": places["in_device", "cnf"].byte + rp_filter,
        "OFF_DEVCONF_RP_FILTER": rp_filter,
    }


def digest(options: Options) -> int:
    """Return a 63-bit digest of everything that the loaded programs depend on."""
    state = hashlib.sha256(
        f"{platform.release()}\0{platform.version()}\0{options.pick_log}\0{options.nat_flows}".encode()
    )
    for program in options.programs:
        state.update(f"\0{program}\0{source_text(program.source)}".encode())
    return int.from_bytes(state.digest()[:8]) >> 1 or 1


class Loader:
    """One loading run in one pin directory."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.pins = options.pin_dir
        self.cgroup = host_requirements.check(options.cgroup)

    # ---- load ----

    def load(self) -> bool:
        """Load and attach what is missing or changed; return whether anything was. Raises HostError, DataplaneError."""
        host_requirements.ensure_pin_dir(self.pins)
        with self._alone():
            self._choose_placements()
            wanted = digest(self.options)
            current = not self.options.force and self._complete() and self._config().digest == wanted
            if not current:
                self._drop_resized()
                self._compile_all()
                map_migration.carry_over(self.pins)
                old_placements.hide(self.pins)
                self._attach_all()
                if self.options.programs == old_placements.alone(self.options.programs):
                    old_placements.forget(self.pins)
                self._remove_outdated()
            self._configure(wanted)
            pins.share(self.pins, self.options.group)
        return not current

    def _choose_placements(self) -> None:
        """Take the programs that look in the old storage too, unless a whole load of them has left it unused."""
        beside = replace(self.options, programs=old_placements.beside(self.options.programs))
        alone = replace(self.options, programs=old_placements.alone(self.options.programs))
        self.options = beside
        if not old_placements.exist(self.pins) or (
            self._complete() and self._config().digest == digest(beside) and not old_placements.are_used(self.pins)
        ):
            self.options = alone

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the pin directory: two loaders at once would make two picks."""
        fd = os.open(self.pins, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def _complete(self) -> bool:
        return all((self.pins / one.pin).exists() and self._attached(one) for one in self.options.programs)

    def _attached(self, program: Program) -> bool:
        """Return whether the program's link (if it has one) holds the pinned program at our cgroup."""
        if not program.cgroup:
            return True
        try:
            with (
                syscall.Fd(syscall.obj_get(str(self.pins / program.link_pin))) as link,
                syscall.Fd(syscall.obj_get(str(self.pins / program.pin))) as prog,
            ):
                return syscall.link_cgroup_id(link) == self._cgroup_id() and (
                    syscall.link_prog_id(link) == syscall.prog_id(prog)
                )
        except DataplaneError:
            return False

    def _cgroup_id(self) -> int:
        return self.cgroup.stat().st_ino

    def _drop_resized(self) -> None:
        """Forget a pick log of another size: it is a debugging aid, the only map that may change its size."""
        pin = self.pins / "pick_log_v2"
        if pin.exists():
            with syscall.Fd(syscall.obj_get(str(pin))) as fd:
                same = syscall.map_info(fd).max_entries == self.options.pick_log
            if not same:
                pin.unlink()

    def _compile_all(self) -> None:
        with host_requirements.headers():
            self._compile_units()

    def _compile_units(self) -> None:
        units: dict[tuple[str, tuple[str, ...]], list[Program]] = {}
        for program in self.options.programs:
            units.setdefault((program.source, program.defines), []).append(program)
        macros = {**kernel_defines(), "PICK_LOG_ENTRIES": self.options.pick_log, "NAT_FLOWS": self.options.nat_flows}
        for (source, defines), programs in units.items():
            flags = [
                f'-DPIN_DIR="{self.pins}"',
                *(f"-D{k}={v}" for k, v in macros.items()),
                *(f"-D{d}" for d in defines),
            ]
            self._compile(source, flags, programs)

    def _compile(self, source: str, flags: Sequence[str], programs: Sequence[Program]) -> None:
        module = _bpf_module(source, flags)
        for program in programs:
            try:
                attach = {} if program.attach is None else {"attach_type": int(program.attach)}
                function = module.load_func(program.function.encode(), int(program.type), **attach)
            except Exception as error:  # bcc raises plain Exception
                raise DataplaneError(
                    f"{source}: {program.function} does not load on kernel {platform.release()}: {error}"
                ) from error
            if program.iterates:
                with syscall.Fd(syscall.obj_get(str(self.pins / program.iterates))) as over:
                    link = syscall.Fd(syscall.link_create_map_iter(function.fd, over))
                with link as fd:
                    self._pin(fd, program.pin)
            else:
                self._pin(function.fd, program.pin)
                self._enter(function.fd, program)
        module.cleanup()

    def _enter(self, fd: int, program: Program) -> None:
        """Put a part into the table that the other packet programs call it by."""
        if program.entry is not None:
            with syscall.Fd(syscall.obj_get(str(self.pins / PROGRAM_TABLE))) as table:
                syscall.map_update(table, program.entry.to_bytes(4, sys.byteorder), fd.to_bytes(4, sys.byteorder))

    def _pin(self, fd: int, name: str) -> None:
        """Pin under the name, atomically in the place of an older one."""
        fresh = self.pins / f"new_{name}"  # no dot: bpffs reserves names with one
        fresh.unlink(missing_ok=True)
        syscall.obj_pin(fd, str(fresh))
        fresh.rename(self.pins / name)

    def _remove_outdated(self) -> None:
        """Remove pins of ours that this version has no use for: maps and programs of older layouts."""
        names = {pin for one in self.options.programs for pin in (one.pin, one.link_pin)}
        for program in self.options.programs:
            names |= set(_PINNED_MAP.findall(source_text(program.source)))
        if (
            old_placements.alone(self.options.programs) == PROGRAMS
        ):  # a part of the programs says nothing of the others' maps
            for pin in self.pins.iterdir():
                if pins.OURS.fullmatch(pin.name) and pin.name not in names:
                    pin.unlink()

    def _attach_all(self) -> None:
        target = os.open(self.cgroup, os.O_RDONLY | os.O_DIRECTORY)
        try:
            for program in self.options.programs:
                if program.cgroup:
                    self._attach(program, target)
        finally:
            os.close(target)

    def _attach(self, program: Program, target: int) -> None:
        pin = self.pins / program.link_pin
        with syscall.Fd(syscall.obj_get(str(self.pins / program.pin))) as prog:
            if pin.exists():
                with syscall.Fd(syscall.obj_get(str(pin))) as link:
                    try:
                        if syscall.link_cgroup_id(link) == self._cgroup_id():
                            syscall.link_update(link, prog)
                            return
                        syscall.link_detach(link)
                    except syscall.BpfError as error:
                        if error.errno != errno.ENOLINK:  # its cgroup is gone
                            raise
            with syscall.Fd(syscall.link_create(prog, target, program.attach or 0)) as link:
                self._pin(link, program.link_pin)

    def _config(self) -> layout_placement.Config:
        with syscall.Fd(syscall.obj_get(str(self.pins / "config_v1"))) as fd:
            return layout_placement.Config.unpack(syscall.map_lookup(fd, bytes(4), layout_placement.Config.SIZE) or b"")

    def _configure(self, wanted: int) -> None:
        """Tell the programs our network namespace. The rest of the configuration is the controller's."""
        with socket.socket() as sock:
            cookie = int.from_bytes(sock.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8), sys.byteorder)
        config = self._config().replace(netns_cookie=cookie, digest=wanted)
        with syscall.Fd(syscall.obj_get(str(self.pins / "config_v1"))) as fd:
            syscall.map_update(fd, bytes(4), config.pack())

    # ---- unload, status ----

    def unload(self) -> bool:
        """Detach and remove everything of ours, first what makes placements; return whether there was anything."""
        host_requirements.remove_headers()
        if not self.pins.is_dir():
            return False
        with self._alone():
            pins.remove_all(self.pins, self.options.programs)
        if not any(self.pins.iterdir()):
            self.pins.rmdir()
        return True

    def withdraw(self) -> bool:
        """Take every listener out of the kernel; what is open goes on. Return whether there was any."""
        if not (self.pins / LISTENERS_PIN).exists():
            return False
        with self._alone():
            maps = Maps(str(self.pins))
            found = list(maps.listeners())
            for key in found:
                maps.delete_listener(key)
            maps.close()
        return bool(found)

    def status(self) -> Mapping[str, str]:
        """Return for each program whether it is missing, loaded or attached."""

        def state(program: Program) -> str:
            if not (self.pins / program.pin).exists():
                return "missing"
            if not program.cgroup:
                return "loaded"
            return "attached" if self._attached(program) else "not attached"

        return {program.pin: state(program) for program in self.options.programs}


def _bpf_module(source: str, flags: Sequence[str]) -> Any:
    """Compile one C file with bcc. Raises HostError when bcc is missing, DataplaneError when it does not compile."""
    try:
        from bcc import BPF
    except ImportError as error:
        raise HostError(
            f"bcc is missing ({error}): install python3-bpfcc and make the venv with --system-site-packages"
        ) from error
    try:
        return BPF(text=source_text(source).encode(), cflags=list(flags))
    except Exception as error:  # bcc raises plain Exception
        raise DataplaneError(f"{source}: does not compile: {error}") from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="skedge-loader", description="Load skedge's eBPF programs into this kernel.")
    parser.add_argument("action", choices=("load", "withdraw", "unload", "status"))
    parser.add_argument("--pin-dir", type=Path, default=Path(PIN_DIR), help="directory on bpffs (default %(default)s)")
    parser.add_argument("--cgroup", help="cgroup2 directory to attach to (default: the root, from the mount table)")
    parser.add_argument("--group", default=GROUP, help="group that may use the pins (default %(default)s)")
    parser.add_argument("--force", action="store_true", help="compile and replace even when nothing changed")
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
    options = replace(options, nat_flows=arguments.nat_flows)
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


def _load(arguments: argparse.Namespace, options: Options) -> bool:
    """Load for the engine that is configured, or that this host can run; return whether anything changed."""
    host_requirements.check_root()
    serves = engine_choice.serving(arguments.pin_dir)
    changed = False

    def load() -> None:
        nonlocal changed
        try:
            changed = Loader(options).load()
        except SkedgeError:
            if serves is None and arguments.engine is EngineKind.AUTO and arguments.pin_dir.is_dir():
                with suppress(SkedgeError):
                    Loader(options).unload()  # half of the programs are no engine
            raise

    verdict = engine_choice.decide(arguments.engine, serves, load)
    if verdict.engine is EngineKind.IPVS:
        pins.lend(options.pin_dir, options.group)
    engine_choice.write(verdict, arguments.verdict)
    if arguments.engine is not EngineKind.EBPF:
        print(f"engine {verdict.engine}: {verdict.why}")
    return changed


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; errors are one sentence on stderr."""
    arguments = _parser().parse_args(argv)
    try:
        return _run(arguments)
    except SkedgeError as error:
        print(f"skedge-loader: {error}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
