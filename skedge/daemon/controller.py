"""The controller: events in, consequences out. All state belongs to one loop; every step here is short."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from math import inf

from skedge.control.health.monitor import HealthState
from skedge.control.identity.identity import Identity
from skedge.control.identity.identity import load as load_identity
from skedge.core.desired.compute import Desired, link_id
from skedge.core.drains import Drains
from skedge.core.ending import Ending
from skedge.core.errors import SkedgeError
from skedge.core.linkstate.flooding import Flooder
from skedge.core.linkstate.measured_cost import MeasuredCosts
from skedge.core.linkstate.messages import Message
from skedge.core.model import LinkId, WorkloadId
from skedge.core.reasons import Reason
from skedge.daemon import link_status, reload
from skedge.daemon.counter_polling import Counting, Tally
from skedge.daemon.ending.endings import Endings
from skedge.daemon.ending.returned_sites import ReturnedSites
from skedge.daemon.events import ControlEvents, Orders
from skedge.daemon.kernel.intent import Intent
from skedge.daemon.kernel.kernel import Applied, Kernel, Readings
from skedge.daemon.kernel.resumption import Resumption
from skedge.daemon.kernel.tunnel_watch import Tunnels
from skedge.daemon.kernel.worker import Worker
from skedge.daemon.loop.background import Background, Together
from skedge.daemon.loop.dirty import RECORDS, Dirty, Event, Marks
from skedge.daemon.loop.life import Life, Phase, Seen, entered
from skedge.daemon.loop.wake import Wake
from skedge.daemon.placement_log import PlacementLog
from skedge.daemon.routing import Routing
from skedge.daemon.state import State, endpoints_of
from skedge.daemon.state_file import Memory
from skedge.daemon.systemd import Notifier

log = logging.getLogger("skedge.daemon")

RTT_SAY_S = 10.0
LOOK_S = 5.0  # the longest wait
STUCK_S = 60.0  # so long no reconcile run takes

MakeControl = Callable[[ControlEvents, State, Flooder, Identity], Orders]
PHASES = {Phase.BALANCING: Event.BALANCING, Phase.SYNCED: Event.SYNCED, Phase.DELETING: Event.DELETING}


class Controller:
    """One site's controller: takes the events of its parts, gives them their orders."""

    def __init__(
        self,
        path: str,
        state: State,
        flooder: Flooder,
        *,
        identity: Identity,
        kernel: Kernel,
        memory: Memory,
        notifier: Notifier,
        control: MakeControl,
    ) -> None:
        """Take what is known and by what it is said; make the parts that tell what happens."""
        now = time.monotonic()
        self._path, self._notifier = path, notifier
        self.identity, self.state, self.flooder = identity, state, flooder
        self.life = Life(now)
        self.worker = Worker(kernel, self._applied)
        self.tunnels = Tunnels(self.worker)
        self.control = control(self, state, flooder, identity)
        self.tally = Tally()
        self.counting = Counting(self.worker, self.tally, self)
        self.resumption = Resumption(kernel.stalls)
        kernel.route_driver.on_put = self.resumption.came
        self.applied = Applied()
        self._intent = Intent(state, self.worker, self.resumption)
        self.config_error = ""
        self._memory = memory
        self._routing = Routing(state, flooder, self.control, memory)
        self.refusals = self._routing.refusals
        self.endings = Endings(kernel.enders)
        self._returned = ReturnedSites(state, flooder, memory, self.endings, self.worker.settled)
        self._costs = MeasuredCosts()
        self._marks, self._wake = Marks(), Wake()
        self._say_rtt_at = now + RTT_SAY_S
        self._told_systemd = False
        self._background, self._together = Background(), Together()

    @property
    def desired(self) -> Desired:
        """Return what the kernel should hold, as it was computed last."""
        return self._intent.desired

    def wanted(self) -> Desired:
        """Return what the next reconcile run would make so."""
        return self._intent.next(self.life)

    # ---- run and reload -------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Run until `stop`. The kernel is left as it is."""
        await self._read_addresses()
        fresh = self.state.config.overlay4 not in self.state.own_addresses()
        self.life, self.state.unusable = replace(self.life, arriving=fresh), fresh
        self.control.open()
        self._configured()
        ended = await self._together.run(
            self._loop(),
            self.worker.run(),
            self.counting.run(),
            PlacementLog(self.worker, self.state).run(),
            self.tunnels.run(),
            self.resumption.run(),
            self._notifier.watch(self._turns),
        )
        await self.control.close()
        self.worker.close()
        self.endings.close()
        for task in ended:
            task.result()  # raises what ended it

    def stop(self) -> None:
        """End `run`."""
        self._together.stop()

    def reload(self) -> None:
        """Re-read the configuration; a bad one is reported and the last good one stays.

        For a change that only a new process can take, `run` ends; systemd starts that, the kernel forwards meanwhile.
        """
        self._notifier.reloading()
        try:
            new = reload.read(self._path, self.state.config)
            if names := reload.need_restart(self.state.config, new):
                load_identity(self.identity.directory, new.network, new.site)  # raises where it does not fit the names
                log.warning("op=restart changed=%s", ",".join(names))
                self.stop()
                return
            self.identity.reload()
            self.control.renew()
            self.state.set_config(new, self.state.ports)
        except SkedgeError as error:
            self.config_error = str(error)
            log.error("op=reload failed=%r the last good configuration stays", self.config_error)
        else:
            self.config_error = ""
            log.info("op=reload path=%s", self._path)
            self._routing.recheck(time.monotonic())
            self._routing.save()
            self._configured()
        self._notifier.ready(self.state.line())

    def drain(self, wanted: Drains) -> None:
        """Keep and follow what is drained by command. Raises ApiError when it cannot be kept."""
        self._memory.save_drains(wanted)
        self.state.set_drains(wanted)
        log.info("op=drain drained=%r", [f"{one.what} {one.name}".strip() for one in wanted])
        self._configured()

    def _configured(self) -> None:
        """Follow a new configuration everywhere."""
        self._routing.configure(time.monotonic())
        self.control.configure(self.state.config)
        self._costs.configure({link_id(self.state.config, link): link for link in self.state.config.links})
        self._note(Event.CONFIGURED)

    # ---- the loop -------------------------------------------------------------------------------------------------

    async def _loop(self) -> None:
        while True:
            now = time.monotonic()
            await self._wake.wait(self._deadline(now) - now)
            synced = self._say(time.monotonic())
            await asyncio.sleep(0)  # what is said, or handed on, leaves before paths are computed
            self._settle(time.monotonic(), synced=synced)

    def _deadline(self, now: float) -> float:
        life = self.life.deadline(now, loads=self._marks.has(Dirty.LOADS))
        return min(self._routing.deadline(now), self._costs.deadline(), self._say_rtt_at, life, now + LOOK_S)

    def _say(self, now: float) -> bool:
        """Leave failed links at once, and say what has changed here; return whether sync came just now."""
        self._routing.tick(now)
        self._look_at_links(now)
        synced = self._live(now)
        if self.life.speaks and (dirty := self._marks.take(RECORDS)):  # before, neighbours keep what the last life said
            self._routing.originate(now, dirty)
        return synced

    def _settle(self, now: float, *, synced: bool) -> None:
        """Draw the consequences of what came in."""
        if self._routing.compute(now, at_once=synced):
            self.tally.spf_runs += 1
            self._intent.reroute(self.life)
            self._note(Event.PATHS)
            if (ending := self._returned.look()) is not None:
                self._background.spawn(ending)
        if self.state.forwarding.release(now):
            self._note(Event.REROUTED)
        if self._marks.take(Dirty.KERNEL):
            self._intent.ask(self.life)
        self._tell_loads(now)

    def _look_at_links(self, now: float) -> None:
        """Take over which links may be used; only a change of what they are used for is news by itself."""
        hold_s, stats = self.state.config.hold_time_s, self.control.link_stats()
        self._costs.step(now, link_status.measured(stats))
        self.state.link_costs = self._costs.parts()
        used = link_status.used(stats, self.flooder.adjacencies(now), now, hold_s, self.state.link_costs)
        news = link_status.uses(used) != link_status.uses(self.state.links_used)
        if news:
            self.tunnels.look()
        if news or now >= self._say_rtt_at:
            if self.state.follow_links(now, used):
                self._intent.reroute(self.life)
                self._marks.note(Event.REROUTED)
            self._marks.note(Event.LINKS)
            self._say_rtt_at = now + RTT_SAY_S

    def _live(self, now: float) -> bool:
        """Go on in life; return whether sync came just now.

        Paths must be computed with what was heard before anything else follows: nothing may be deleted for a map
        that lacks this site's own links.
        """
        if self.life.deleting and not self.life.arriving:
            return False  # nothing more is to come
        before, self.life = self.life, self.life.step(now, self._seen(now))
        phases = entered(before, self.life)
        for phase in phases:
            self._marks.note(PHASES[phase])
        if Phase.SYNCED in phases:
            log.info("op=synced after_s=%.2f links=%d", self.life.age(now), len(self.state.configured_links()))
        if before.arriving and not self.life.arriving:
            log.info("op=arrived after_s=%.2f", self.life.age(now))
            self._usable(True)
        return Phase.SYNCED in phases

    def _usable(self, usable: bool) -> None:
        """Let others use this site from now on, or not; its links stay up, and what is open goes on."""
        self.state.unusable = not usable
        self._note(Event.USABLE)

    def end(self, ending: Ending) -> None:
        """Let connections be ended; does not wait."""
        self._background.spawn(self.endings.end(ending))

    def leave(self) -> None:
        """Withdraw this site until its next start: its host goes down."""
        log.info("op=leave")
        self.life = replace(self.life, arriving=False)
        self._usable(False)

    def _seen(self, now: float) -> Seen:
        stats, configured = self.control.link_stats(), self.state.configured_links()
        return Seen(
            health_known=self.state.health_known(),
            waiting=bool(link_status.waiting(configured, stats, self.flooder.adjacencies(now))),
            undecided=bool(link_status.undecided(configured, stats)),
            hold_s=self.state.config.hold_time_s,
            reachable=self._intent.reachable(self.applied),
        )

    def _tell_loads(self, now: float) -> None:
        """Tell the kernel's thread what other sites reported; numbers only grow while some may not have reported."""
        kernel = self.worker.kernel
        if self._marks.has(Dirty.LOADS) and self.life.loads_whole(now):
            self._marks.take(Dirty.LOADS | Dirty.REPORTED)
            self._background.spawn(self.worker.call(kernel.set_others, self.state.others()))
        elif self.life.synced and self._marks.take(Dirty.REPORTED):
            self._background.spawn(self.worker.call(kernel.raise_others, self.state.others()))

    # ---- events (`events.ControlEvents`, `events.CounterEvents`) ----------------------------------------------------

    def links_changed(self) -> None:
        """Look at the links again: the probes have a verdict (which they logged)."""
        self._wake.set()

    def stream_up(self, link: LinkId) -> None:
        """Take a new control stream."""
        self._routing.stream_up(time.monotonic(), link)
        self._wake.set()

    def stream_down(self, link: LinkId, reason: Reason) -> None:  # noqa: ARG002 (the stream logged it)
        """Note that a control stream is gone."""
        self._routing.stream_down(time.monotonic(), link)
        self._wake.set()

    def message(self, link: LinkId, message: Message) -> None:
        """Take one message of a control stream."""
        self._routing.message(time.monotonic(), link, message)
        self._wake.set()

    def health_changed(self, workload: WorkloadId, health: HealthState) -> None:
        """Take a verdict of the health checks (own workloads; suspended ones of other sites matter when good)."""
        if workload.site != self.state.config.site:
            return
        self.state.set_health(workload.connector, health)
        self._note(Event.HEALTH)

    def good_probe(self, workload: WorkloadId) -> None:
        """End the suspension of a workload that answers."""
        if any(one == workload for _, one in self.state.suspended):
            self._background.spawn(self.worker.call(self.worker.kernel.engine.resume, workload))

    def load_reported(self) -> None:
        """Take other sites' load reports."""
        self.refresh_heard()
        self._note(Event.LOADS)

    def refresh_heard(self) -> None:
        """Take over the last reports and their ages."""
        self.state.heard = dict(self.control.heard(time.monotonic()))

    def look_at_host(self) -> None:
        """Read the host's addresses again: they changed."""
        self._background.spawn(self._read_addresses())

    def forget_tables(self) -> None:
        """Read the nftables anew at the next comparison: they changed."""
        self.worker.kernel.host.forget()

    def look_at_devices(self) -> None:
        """Compare with the kernel again: devices came, or their settings changed."""
        self.worker.again()

    def counted(self, readings: Readings) -> None:
        """Take this site's counters; what the data plane suspended is probed at once, and until a probe is good."""
        before = self.state.suspended
        self.state.counts, self.state.suspended = readings.counts, readings.suspended
        if readings.suspended != before and self.desired.choosers:
            self._note(Event.SUSPENSIONS)
        self.control.suspended(endpoints_of(self.desired, readings.suspended))
        for service, workload in sorted(readings.suspended - before):
            log.info("service=%s workload=%s reason=%s", service.name, workload, Reason.SUSPENDED.word)
            self.control.probe_now(workload)
        self.control.report()

    def _applied(self, applied: Applied, took_s: float) -> None:
        """Take what the last reconcile run did."""
        self.applied = applied
        self.tally.reconciled(applied, time.monotonic(), took_s)
        self.resumption.follow(applied.routes)
        if any(change.startswith("link ") for change in applied.changed):
            self.tunnels.look()
        if not self._told_systemd:
            self._told_systemd = True
            self._notifier.ready(self.state.line())
        before, self.life = self.life, self.life.applied()
        if self.life.ready and not before.ready:
            log.info("op=ready after_s=%.2f", self.life.age(time.monotonic()))

    # ---- effects --------------------------------------------------------------------------------------------------

    def _note(self, event: Event) -> None:
        """Note an event, and draw its consequences soon."""
        self._marks.note(event)
        self._wake.set()

    async def _read_addresses(self) -> None:
        found = tuple(sorted(await self.worker.call(self.worker.kernel.host.addresses)))
        if found != self.state.host_addresses:
            self.state.host_addresses = found
            self._note(Event.ADDRESSES)

    def _turns(self) -> bool:
        """Tell whether neither the kernel's thread nor the probes' is stuck."""
        busy_since = self.worker.busy_since or inf
        return time.monotonic() - busy_since <= STUCK_S and self.control.probes_turn(STUCK_S)
