"""One host in a namespace: the product's loader, the controller's whole kernel, and what somebody else does to it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from tempfile import mkdtemp

from skedge.core.api.documents import PlanStep
from skedge.core.desired.compute import Desired
from skedge.core.model import SiteConfig
from skedge.daemon.kernel.assembly import build_kernel
from skedge.daemon.kernel.kernel import Applied, Kernel
from skedge.dataplane import purge
from skedge.dataplane.bpf import syscall
from skedge.dataplane.common_rows import overlays
from skedge.dataplane.host.netlink import Netlink
from skedge.loader import loader
from tests.integration.links.kit import Namespace, run
from tests.kit import bytecode
from tests.kit.snapshot import Snapshot

from .world import HERE, World

DEVICES = ("eth0", "lan0", "direct0", "direct2")


class Host:
    """A host with devices, a default route and neighbours; ``tracks``: its connections are tracked."""

    def __init__(self, bpffs: Path | None, name: str = "reg", *, tracks: bool = True) -> None:
        self.ns = Namespace(name)
        self.ns.patience_s = 240
        self.pins = Path(bpffs or "/nonexistent") / self.ns.name
        self.state = Path(mkdtemp(prefix="registrytest-"))
        self.kernel: Kernel = None  # type: ignore[assignment]
        self._loader: loader.Loader | None = None
        for device in DEVICES:
            self.ns.ip("link", "add", device, "type", "veth", "peer", "name", f"far-{device}")
            for one in (device, f"far-{device}"):
                self.ns.ip("link", "set", one, "up")
        for address, device in ((f"{HERE}/24", "eth0"), ("10.55.0.1/24", "lan0"), ("fd55::1/64", "lan0")):
            self.ns.ip("addr", "add", address, "dev", device, *(["nodad"] if ":" in address else []))
        self.ns.ip("addr", "add", "fd95::5/64", "dev", "eth0", "nodad")
        self.ns.ip("route", "add", "local", "10.97.0.0/24", "dev", "lo")  # AnyIP
        for gateway in ("10.95.0.1", "fd95::1"):
            self.ns.ip("neigh", "add", gateway, "lladdr", "02:95:00:00:00:01", "dev", "eth0", "nud", "permanent")
            self.ns.ip("route", "add", "default", "via", gateway, "dev", "eth0")
        if tracks:
            self.ns.sh("nft 'add table inet theirs; add chain inet theirs c { type filter hook output priority 0; };"
                       " add rule inet theirs c ct state new accept';"
                       " sysctl -qw net.netfilter.nf_conntrack_icmp_timeout=600; ping -c1 -W1 127.0.0.1")  # fmt: skip

    def load(self) -> None:
        """Load the programs, as the loader does."""
        programs = bytecode.OF_LAN
        self._loader = loader.Loader(
            loader.Options(self.pins, programs=programs, nat_flows=512, cache=bytecode.cache())
        )
        self.ns.patience_s = 600
        self.ns(self._loader.load)

    def build(self, world: World) -> Kernel:
        """Start a controller's kernel."""
        self.kernel = self.ns(build_kernel, world.config(), self.pins, self.state, self.state)
        return self.kernel

    def wish(self, world: World) -> tuple[SiteConfig, Desired]:
        return world.config(), world.desired(self.ns(self.kernel.host.addresses))

    def plan(self, wish: tuple[SiteConfig, Desired], *, allow_delete: bool = True) -> tuple[PlanStep, ...]:
        return self.ns(self.kernel.plan, *wish, allow_delete=allow_delete)

    def apply(self, wish: tuple[SiteConfig, Desired], *, allow_delete: bool = True) -> Applied:
        return self.ns(self.kernel.apply, *wish, allow_delete=allow_delete)

    def snapshot(self, *, pins: bool = True) -> Snapshot:
        return Snapshot.take(self.ns.name, self.pins if pins and self._loader else None)

    def indexes(self) -> dict[str, int]:
        return {one["ifname"]: one["ifindex"] for one in json.loads(self.ns.sh("ip -j link show"))}

    def purge(self, config: SiteConfig) -> None:
        """Do what ``skedge purge`` and the loader's unloading do."""
        self.ns(purge.purge, Netlink(), overlays(config), self.state)
        if self._loader is not None:
            self._loader.unload()

    def close(self) -> None:
        if self._loader is not None:
            self._loader.unload()
        self.ns.close()
        run("rm", "-rf", str(self.state), check=False)

    # ---- somebody else's hand in a map ------------------------------------------------------------------------

    def entries(self, pin: str, sizes: tuple[int, int]) -> list[tuple[bytes, bytes]]:
        with syscall.Fd(syscall.obj_get(str(self.pins / pin))) as fd:
            items = list(syscall.map_items(fd, *sizes))
        array = pin in ("services_v1", "ports_v1", "endpoint_marks_v1", "link_table_v2")
        return [(key, value) for key, value in items if any(value) or not array]

    def poke(self, pin: str, key: bytes, value: bytes) -> None:
        with syscall.Fd(syscall.obj_get(str(self.pins / pin))) as fd:
            syscall.map_update(fd, key, value)

    def pull(self, pin: str, key: bytes) -> None:
        with syscall.Fd(syscall.obj_get(str(self.pins / pin))) as fd:
            assert syscall.map_delete(fd, key), f"{pin} had no {key.hex()}"


def names(steps: Sequence[PlanStep]) -> set[tuple[str, str]]:
    return {(step.kind, step.key) for step in steps}
