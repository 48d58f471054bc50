"""`skedged`: read the configuration, take over the kernel state that is there, run until told to stop."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import click

from skedge import __version__, config
from skedge.control.api import Api
from skedge.control.identity.identity import load as load_identity
from skedge.core.abilities import ABILITIES
from skedge.core.api.documents import SOCKET_PATH
from skedge.core.errors import SkedgeError
from skedge.core.model import SiteConfig
from skedge.daemon.api import metrics
from skedge.daemon.api.answers import Answers
from skedge.daemon.kernel.assembly import build_kernel
from skedge.daemon.kernel.kernel import Kernel
from skedge.daemon.startup import assemble
from skedge.daemon.systemd import Notifier
from skedge.dataplane import engine_choice
from skedge.dataplane.bpf import programs_report
from skedge.dataplane.host import boot

log = logging.getLogger("skedge.daemon")


@click.command()
@click.option("--config", "path", default="/etc/skedge/skedge.yaml", show_default=True, help="Configuration file.")
@click.option("--identity", default="/etc/skedge/identity", show_default=True, help="Key, certificate, CA, CRL.")
@click.option("--state-dir", default="/var/lib/skedge", show_default=True, help="What survives a restart.")
@click.option("--pin-dir", default="/sys/fs/bpf/skedge", show_default=True, help="Where the loader pinned.")
@click.option("--verdict", default=str(engine_choice.VERDICT), show_default=True, help="Which engine the loader chose.")
@click.option("--socket", default=SOCKET_PATH, show_default=True, help="Local API.")
@click.option("--log-level", default="info", show_default=True, type=click.Choice(["debug", "info", "warning"]))
@click.version_option(__version__)
def main(path: str, identity: str, state_dir: str, pin_dir: str, verdict: str, socket: str, log_level: str) -> None:
    """Run the skedge controller of this site."""
    logging.basicConfig(level=log_level.upper(), format="%(levelname)s %(name)s %(message)s", stream=sys.stderr)
    try:
        first = config.load(path)
        chosen = engine_choice.read(first.engine, Path(pin_dir), Path(verdict))
        log.info("op=engine engine=%s why=%r", chosen.engine, chosen.why)
        first = replace(first, engine=chosen.engine)
        kernel = build_kernel(first, Path(pin_dir), Path(state_dir), Path(identity), why=chosen.why)
        if ABILITIES[chosen.engine].bytecode:
            kernel.programs = partial(programs_report.read, Path(verdict).parent)
        asyncio.run(_run(path, first, Path(identity), Path(state_dir), kernel, socket))
    except SkedgeError as error:
        log.error("%s", error)
        sys.exit(error.exit_code)


async def _run(path: str, first: SiteConfig, identity: Path, state_dir: Path, kernel: Kernel, socket: str) -> None:
    notifier = Notifier()
    controller = assemble(
        path,
        first,
        identity=load_identity(identity, first.network, first.site),
        kernel=kernel,
        state_dir=state_dir,
        notifier=notifier,
        boot=boot.identity(),
    )
    answers = Answers(controller)
    api = Api(socket, answers.answer)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, controller.reload)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, controller.stop)
    await api.start()
    try:
        metrics.serve(controller, answers, first.metrics)
    except OSError as error:
        log.error("metrics: cannot listen on %s:%d: %s", first.metrics.address, first.metrics.port, error.strerror)
    looking = asyncio.create_task(answers.watch())
    try:
        await controller.run()
    finally:
        looking.cancel()
        notifier.stopping()
        await api.close()
