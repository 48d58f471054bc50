"""One loading run in one pin directory (root): maps and programs from bytecode, verified, then pinned and attached.

Loading twice changes nothing. Everything is verified before anything is pinned, so what fails leaves what runs; a
changed program then replaces the attached one atomically (LINK_UPDATE) on the same maps, so both versions must be right
on them for a moment.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from skedge.core.errors import DataplaneError
from skedge.core.observed import ProgramsReport
from skedge.dataplane.bpf import links, pins, syscall
from skedge.dataplane.bpf.programs import PROGRAMS, Program
from skedge.dataplane.ebpf import layout_placement
from skedge.dataplane.ebpf.maps import LISTENERS_PIN, Maps
from skedge.loader import bytecode, constants, host_requirements, load_image, old_placements
from skedge.loader.compiling.sources import compilations
from skedge.loader.publish import Publication
from skedge.loader.refusals import Refusals, Refused, digest_of

PIN_DIR = "/sys/fs/bpf/skedge"
GROUP = "skedge"
NAT_FLOWS = 262144
_SO_NETNS_COOKIE = 71


@dataclass(frozen=True, slots=True)
class Options:
    """What to load and where: ``pick_log`` entries (a power of two; 1 is off) record every pick for a replay.

    ``nat_flows`` sizes the flow table when it is made; one that is there keeps its size (and its flows) until unload.
    ``cache`` is this host's directory of bytecode (None: none), ``shipped`` the release's file. ``again``: what was
    refused before is tried.
    """

    pin_dir: Path = Path(PIN_DIR)
    cgroup: str | None = None
    group: str = GROUP
    pick_log: int = 1
    force: bool = False
    programs: tuple[Program, ...] = PROGRAMS
    nat_flows: int = NAT_FLOWS
    cache: Path | None = None
    shipped: Path | None = bytecode.SHIPPED
    again: bool = False


def digest(options: Options) -> int:
    """Return a 63-bit digest of everything that the loaded programs depend on."""
    state = hashlib.sha256(f"{platform.release()}\0{platform.version()}\0{options.nat_flows}".encode())
    for unit in compilations(options.programs, options.pick_log):
        state.update(f"\0{unit.programs}\0{unit.digest}".encode())
    return int.from_bytes(state.digest()[:8]) >> 1 or 1


class Loader:
    """One loading run in one pin directory; ``report`` is what the last `load` has to say to the controller."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.pins = options.pin_dir
        self.cgroup = host_requirements.check(options.cgroup)
        self.report = ProgramsReport()

    # ---- load ----

    def load(self) -> bool:
        """Load and attach what is missing or changed; return whether anything was. Raises HostError, DataplaneError."""
        host_requirements.ensure_pin_dir(self.pins)
        with self._alone():
            self._choose_placements()
            wanted = digest(self.options)
            current = not self.options.force and self._complete() and self._config().digest == wanted
            if current:
                self._configure(wanted)
            else:
                self._load(wanted)
            pins.share(self.pins, self.options.group)
        return not current

    def _load(self, wanted: int) -> None:
        options = self.options
        units = compilations(options.programs, options.pick_log)
        found = bytecode.obtain(units, options.cache, options.shipped, again=options.force, retry=options.again)
        self.report = ProgramsReport(found.origin, trouble=found.trouble)
        members = [(unit, one.programs) for unit, one in zip(found.units, units, strict=True)]
        with self._verified(members, wanted) as loaded:
            with Publication(self.pins, self.cgroup) as publication:
                publication.publish(loaded, options.programs)
                self._configure(wanted)
            if options.programs == old_placements.alone(options.programs):
                old_placements.forget(self.pins)
            self._remove_outdated(set(loaded.maps))

    def _verified(self, members: load_image.Members, wanted: int) -> load_image.Loaded:
        """Load all, unless this kernel's verifier has refused just that before."""
        options = self.options
        refusals = Refusals(options.cache, again=options.again or options.force)
        digest = digest_of(wanted, [unit for unit, _ in members])
        refusals.check(digest)
        numbers = {**constants.kernel_defines(), **constants.of_site(options.nat_flows)}
        try:
            loaded = load_image.load(members, self.pins, constants.map_sizes(options.nat_flows), numbers)
        except Refused as error:
            refusals.note(digest, str(error))
            raise
        refusals.forget(digest)
        return loaded

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
                return links.cgroup_id(link) == self.cgroup.stat().st_ino and (
                    links.prog_id(link) == syscall.prog_id(prog)
                )
        except DataplaneError:
            return False

    def _remove_outdated(self, maps: set[str]) -> None:
        """Remove pins of ours that this version has no use for: maps and programs of older layouts."""
        # a part of the programs says nothing of the others' maps
        if old_placements.alone(self.options.programs) == PROGRAMS:
            names = maps | {pin for one in self.options.programs for pin in (one.pin, one.link_pin)}
            for pin in self.pins.iterdir():
                if pins.OURS.fullmatch(pin.name) and pin.name not in names:
                    pin.unlink()

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

    def leave_no_directory(self) -> None:
        """Remove the pin directory where it is empty: half an engine is none."""
        with suppress(OSError):
            self.pins.rmdir()

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
