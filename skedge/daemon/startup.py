"""What a controller is made of: the memory of the life before, the facts, flooding, and the parts around them."""

from __future__ import annotations

from pathlib import Path

from skedge.control.identity.identity import Identity
from skedge.control.streams.record_codec import BodyCodec
from skedge.core.linkstate.flooding import Flooder
from skedge.core.model import SiteConfig
from skedge.daemon.control_plane import ControlPlane
from skedge.daemon.controller import Controller, MakeControl
from skedge.daemon.kernel.kernel import Kernel
from skedge.daemon.state import State
from skedge.daemon.state_file import Memory
from skedge.daemon.systemd import Notifier


def assemble(
    path: str,
    first: SiteConfig,
    *,
    identity: Identity,
    kernel: Kernel,
    state_dir: Path,
    notifier: Notifier,
    boot: str = "",
    control: MakeControl = ControlPlane,
) -> Controller:
    """Return the controller of a site; each of its lives has a higher incarnation than the one before.

    ``boot`` names what all connections of the host are lost with (`dataplane.host.boot`).

    Raises:
        ConfigError: there are more connectors than endpoint ports.
    """
    memory = Memory(state_dir, boot)
    state = State(first, {}, drains=memory.drains, boot=memory.last.boot)
    state.set_config(first, memory.last.ports)
    flooder = Flooder(
        site=first.site,
        network=first.network,
        signer=identity,
        verifier=identity.verifier,
        codec=BodyCodec(),
        incarnation=memory.last.incarnation + 1,
        seed=memory.last.incarnation,
    )
    return Controller(
        path,
        state,
        flooder,
        identity=identity,
        kernel=kernel,
        memory=memory,
        notifier=notifier,
        control=control,
    )
