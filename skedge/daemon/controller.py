"""The controller: events in, consequences out. All state belongs to one loop; every step here is short."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine
from dataclasses import replace
from math import inf
from pathlib import Path

from skedge import __version__, config
from skedge.control.identity.identity import Identity
from skedge.control.identity.identity import load as load_identity
from skedge.control.streams.record_codec import BodyCodec
from skedge.core.desired.compute import Desired
from skedge.core.errors import SkedgeError
from skedge.core.linkstate.flooding import Flooder, Output
from skedge.core.linkstate.messages import Message
from skedge.core.linkstate.pacing import Backoff
from skedge.core.model import EngineKind, LinkId, SiteConfig, WorkloadId
from skedge.core.placement.loads import Heard
from skedge.core.reasons import Reason
from skedge.daemon import link_status, state_file
from skedge.daemon.control_plane import Wires
from skedge.daemon.counter_polling import Counting, Tally
from skedge.daemon.inbox import Inbox
from skedge.daemon.kernel.kernel import Applied, Kernel
from skedge.daemon.kernel.tunnel_watch import Tunnels
from skedge.daemon.kernel.worker import Worker
from skedge.daemon.placement_log import PlacementLog
from skedge.daemon.refusals import Refusals
from skedge.daemon.state import State
from skedge.daemon.systemd import Notifier

log = logging.getLogger("skedge.daemon")

SOFTWARE = f"skedge {__version__}"
HEALTH_WAIT_S = 2.0  # how long the first health verdicts may delay what this site says
PROBE_WAIT_S = 3.0  # how long a link without any verdict may delay being in sync
UNSYNCED_LOOK_S = 0.05
DELETE_WAIT_S = 1.0  # after sync: sites that restarted at the same time may still be about to speak
LOAD_WAIT_S = 2.0  # after sync every site has reported: until then no number goes below what was found
RTT_SAY_S = 10.0


NEED_RESTART = (
    "network",
    "site",
    "engine",
    "overlay_cidr",
    "overlay4",
    "overlay6",
    "control_port",
    "load_port",
    "metrics",
)


class Controller:
    """One site's controller, wired to its kernel and its wires."""

    def __init__(
        self,
        path: str,
        first: SiteConfig,
        *,
        identity: Identity,
        kernel: Kernel,
        state_dir: Path,
        notifier: Notifier,
    ) -> None:
        now = time.monotonic()
        remembered = state_file.load(state_dir)
        self._path, self._state_dir, self._notifier = path, state_dir, notifier
        self.started = now
        self.identity = identity
        self.state = State(first, {})
        self.state.set_config(first, remembered.ports)
        self.inbox = Inbox(asyncio.get_running_loop())
        self.flooder = Flooder(
            site=first.site,
            network=first.network,
            signer=identity,
            verifier=identity.verifier,
            codec=BodyCodec(),
            incarnation=remembered.incarnation + 1,
            seed=remembered.incarnation,
        )
        self.worker = Worker(kernel, self._applied)
        self.tunnels = Tunnels(self.worker)
        self.wires = Wires(self, identity)
        self.tally = Tally()
        self.counting = Counting(self)
        self.applied = Applied()
        self.desired = Desired()
        self.synced = self.ready = self.deleting = False
        self.config_error = ""
        self.refusals = Refusals()
        self._spf = Backoff()
        self._say_links = self._say_services = self._wish = self._others = True
        self._reported = False
        self._say_rtt_at, self._load_from, self._delete_from = now + RTT_SAY_S, inf, inf
        self._stop = asyncio.Event()
        self._balancing = self._told_systemd = False
        self._background: set[asyncio.Task[object]] = set()
        self._remember()

    # ---- life -----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Run until `stop`. The kernel is left as it is."""
        await self._read_addresses()
        self.wires.open()
        self._configured()
        works: tuple[Coroutine[object, object, object], ...] = (
            self._loop(),
            self.worker.run(),
            self.counting.run(),
            PlacementLog(self).run(),
            self.tunnels.run(),
            self._watch(),
        )
        tasks = [asyncio.create_task(work) for work in works]
        stopped: asyncio.Task[object] = asyncio.create_task(self._stop.wait())
        done, _ = await asyncio.wait([*tasks, stopped], return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.wires.close()
        self.worker.close()
        for task in done - {stopped}:
            task.result()  # raises what ended it

    def stop(self) -> None:
        """End `run`."""
        self._stop.set()

    def reload(self) -> None:
        """Re-read the configuration; a bad one is reported and the last good one stays."""
        self._notifier.reloading()
        try:
            new = config.load(self._path)
            if new.engine is EngineKind.AUTO:  # decided when the process started
                new = replace(new, engine=self.state.config.engine)
            if self._restart_for(new):
                return
            self.identity.reload()
            self.state.set_config(new, self.state.ports)
        except SkedgeError as error:
            self.config_error = str(error)
            log.error("op=reload failed=%r the last good configuration stays", self.config_error)
        else:
            self.config_error = ""
            log.info("op=reload path=%s", self._path)
            self._flood(self.flooder.recheck(time.monotonic()))
            self._remember()
            self._configured()
        self._notifier.ready(self._line())

    def _restart_for(self, new: SiteConfig) -> bool:
        """End `run` for a change that only a new process can take; systemd starts it, the kernel forwards meanwhile.

        Raises ConfigError when the identity on disk does not fit the new names.
        """
        old = self.state.config
        names = [name for name in NEED_RESTART if getattr(old, name) != getattr(new, name)]
        if names:
            load_identity(self.identity.directory, new.network, new.site)
            log.warning("op=restart changed=%s", ",".join(names))
            self.stop()
        return bool(names)

    def _configured(self) -> None:
        """Follow a new configuration everywhere."""
        now = time.monotonic()
        self._flood(self.flooder.configure(now, self.state.configured_links()))
        self.wires.configure(self.state.config)
        self._say_links = self._say_services = self._wish = self._others = True
        self._spf.event(now)

    def _remember(self) -> None:
        self._remembered = self.flooder.incarnation
        try:
            state_file.save(self._state_dir, state_file.Remembered(self.flooder.incarnation, self.state.ports))
        except OSError as error:
            log.error("op=remember path=%s failed=%r", self._state_dir, error.strerror)

    # ---- the loop -------------------------------------------------------------------------------------------------

    async def _loop(self) -> None:
        while True:
            now = time.monotonic()
            await self.inbox.run_some(self._deadline(now) - now)
            self._settle(time.monotonic())

    def _deadline(self, now: float) -> float:
        look = inf if self.synced and self._balancing else now + UNSYNCED_LOOK_S
        later = (self._load_from if self._others else inf, inf if self.deleting else self._delete_from)
        return min(self.flooder.next_deadline(now), self._spf.deadline, self._say_rtt_at, look, *later, now + 5.0)

    def _settle(self, now: float) -> None:
        """Draw the consequences of what came in."""
        if now >= self.flooder.next_deadline(now):
            self._flood(self.flooder.tick(now))
        self._look_at_links(now)
        came = not self.synced and self._synced(now)
        self._say(now)
        if came or self._spf.due(now):
            self._spf.done()
            self.state.recompute(self.flooder.network_map())
            self.tally.spf_runs += 1
            self._wish = self._others = self._say_links = True  # which prefixes are refused may have changed
            self._wake()
        if not self.deleting and now >= self._delete_from:
            self.deleting = self._wish = True
        if self._wish or (not self._balancing and self._health_known(now)):
            self._wish = False
            self._want(now)
        if self._others and now >= self._load_from:
            self._others = self._reported = False
            self.spawn(self.worker.call(self.worker.kernel.set_others, self.state.others()))
        elif self._reported and self.synced:
            self._reported = False
            self.spawn(self.worker.call(self.worker.kernel.raise_others, self.state.others()))

    def _look_at_links(self, now: float) -> None:
        """Take over which links may be used; only a change of up or down is news by itself."""
        used = link_status.used(
            self.wires.link_stats(), self.flooder.adjacencies(now), now, self.state.config.hold_time_s
        )
        news = {link: one.up for link, one in used.items()} != {
            link: one.up for link, one in self.state.links_used.items()
        }
        if news:
            self.tunnels.look()
        if news or now >= self._say_rtt_at:
            self.state.links_used = used
            self._say_links = True
            self._say_rtt_at = now + RTT_SAY_S

    def _synced(self, now: float) -> bool:
        """Decide whether every configured adjacency was heard (or will not be); return whether that came just now.

        Paths must be computed with what was heard before anything else follows: nothing may be deleted for a map
        that lacks this site's own links.
        """
        stats, configured = self.wires.link_stats(), self.state.configured_links()
        age = now - self.started
        waits = link_status.waiting(configured, stats, self.flooder.adjacencies(now))
        undecided = link_status.undecided(configured, stats) if age < PROBE_WAIT_S else frozenset()
        if (waits or undecided) and age < self.state.config.hold_time_s:
            return False
        if not self._health_known(now):
            return False
        self.synced = True
        self._delete_from, self._load_from = now + DELETE_WAIT_S, now + LOAD_WAIT_S
        log.info("op=synced after_s=%.2f links=%d", age, len(configured))
        self._say_links = self._say_services = self._wish = True
        return True

    def _health_known(self, now: float) -> bool:
        return self.state.health_known() or now - self.started > HEALTH_WAIT_S

    def _say(self, now: float) -> None:
        """Originate what changed. Before sync the neighbours keep what the life before said."""
        if not self.synced or not (self._say_links or self._say_services):
            return
        self._flood(
            self.flooder.originate(
                now,
                links=self.state.links_record(SOFTWARE) if self._say_links else None,
                services=self.state.services_record() if self._say_services else None,
            )
        )
        self._say_links = self._say_services = False

    def _want(self, now: float) -> None:
        """Tell the kernel's thread what should be. Until health is known, balancing is left as it was found."""
        self.desired = self.state.desired()
        self._balancing = self._health_known(now)
        self.worker.want(self.state.config, self.wanted(), allow_delete=self.deleting)

    def wanted(self) -> Desired:
        """Return what the next reconcile run would make so."""
        desired = self.state.desired()
        return desired if self._balancing else replace(desired, services={}, listeners={}, choosers={})

    # ---- events ---------------------------------------------------------------------------------------------------

    def links_changed(self) -> None:
        """Look at the links again: the probes have a verdict (which they logged)."""
        self._wake()

    def stream_up(self, link: LinkId) -> None:
        """Take a new control stream."""
        neighbour = self.state.configured_links().get(link)
        if neighbour is not None:
            self._flood(self.flooder.adjacency_up(time.monotonic(), link, neighbour))
        self._wake()

    def stream_down(self, link: LinkId, _reason: Reason) -> None:
        """Note that a control stream is gone."""
        self._flood(self.flooder.adjacency_down(time.monotonic(), link))
        self._wake()

    def message(self, link: LinkId, message: Message) -> None:
        """Take one message of a control stream."""
        self._flood(self.flooder.receive(time.monotonic(), link, message))
        self._wake()

    def health_changed(self, workload: WorkloadId, healthy: bool, address: str) -> None:
        """Take a verdict of the health checks (own workloads; suspended ones of other sites matter when good)."""
        if workload.site != self.state.config.site:
            return
        self.state.health[workload.connector] = healthy
        for connector in self.state.config.connectors:
            if connector.name == workload.connector and address:
                self.state.resolved[connector.host] = address
        self._say_services = self._wish = True

    def good_probe(self, workload: WorkloadId) -> None:
        """End the suspension of a workload that answers."""
        if any(one == workload for _, one in self.state.suspended):
            self.spawn(self.worker.call(self.worker.kernel.engine.resume, workload))

    def suspensions_changed(self) -> None:
        """Look again at which services the listeners with several use."""
        if self.desired.choosers:
            self._wish = True
            self._wake()

    def load_reported(self) -> None:
        """Take other sites' load reports."""
        self.refresh_heard()
        self._others = self._reported = True

    def refresh_heard(self) -> None:
        """Take over the last reports and their ages."""
        now, loads = time.monotonic(), self.wires.loads
        self.state.heard = {
            site: Heard(report, now - (loads.age(site) or 0.0)) for site, report in loads.reports().items()
        }

    def look_at_host(self) -> None:
        """Read the host's addresses again: they changed."""
        self.spawn(self._read_addresses())

    def look_at_devices(self) -> None:
        """Compare with the kernel again: devices came, or their settings changed."""
        self.worker.again()

    async def _read_addresses(self) -> None:
        found = tuple(sorted(await self.worker.call(self.worker.kernel.host.addresses)))
        if found != self.state.host_addresses:
            self.state.host_addresses = found
            self._say_links = self._say_services = self._wish = True
            self._wake()

    def _wake(self) -> None:
        self.inbox.post(lambda: None)

    def _flood(self, output: Output) -> None:
        """Carry out what the flooder asks for."""
        now = time.monotonic()
        for link in output.ready:
            self.wires.bus.wake(link)
        for link, reason in output.reset:
            self.wires.bus.reset(link, reason)
        for reason, text in output.problems:
            self.refusals.add(now, reason, text)
        if output.changed:
            self._spf.event(now)
        if self.flooder.incarnation != self._remembered:
            self._remember()

    async def _watch(self) -> None:
        """Pat the watchdog while the loop turns and the kernel's thread is not stuck."""
        every = self._notifier.watchdog_s or 5.0
        while True:
            stuck = self.worker.busy_since is not None and time.monotonic() - self.worker.busy_since > 60
            if not stuck:
                self._notifier.alive()
            await asyncio.sleep(every)

    def _applied(self, applied: Applied, took_s: float) -> None:
        self.applied = applied
        self.tally.reconcile_runs += 1
        self.tally.reconcile_failures += bool(applied.failed)
        self.tally.reconcile_changes += len(applied.changed)
        if any(change.startswith("link ") for change in applied.changed):
            self.tunnels.look()
        self.tally.last_reconcile, self.tally.last_duration_s = time.monotonic(), took_s
        if not self._told_systemd:
            self._told_systemd = True
            self._notifier.ready(self._line())
        if self._balancing and not self.ready:
            self.ready = True
            log.info("op=ready after_s=%.2f", time.monotonic() - self.started)

    def _line(self) -> str:
        state = self.state
        return f"{state.config.site}: {len(state.rib.paths)} sites reachable, {len(state.config.links)} links"

    def spawn(self, work: Coroutine[object, object, object]) -> None:
        """Run something beside the loop; what it raises is logged."""
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[object]) -> None:
        self._background.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("op=kernel failed=%r", str(error))
