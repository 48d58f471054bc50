"""The controller, which is not root, takes the whole engine `ebpf` away once the loader has lent it the pins."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from skedge.dataplane.bpf import pins
from skedge.dataplane.bpf.programs import PROGRAMS
from skedge.dataplane.ebpf.lan import devices as lan_devices
from skedge.dataplane.ebpf.lan.devices import LanDevice, LanDriver
from skedge.dataplane.host.netlink import Netlink
from skedge.dataplane.retired_engines import RetiredEbpf
from skedge.loader import loader

from ..kit import Host, run
from .test_loader import attached

CAPABILITIES = "+net_admin,+bpf,+perfmon"
AS_CONTROLLER = """
import sys
from pathlib import Path
from skedge.core.errors import DataplaneError
from skedge.dataplane.retired_engines import RetiredEbpf
from skedge.dataplane.host.netlink import Netlink
left = RetiredEbpf(Path(sys.argv[1]), Netlink())
try:
    left.hand_over(())
    assert left.open() == 0
    left.remove()
except DataplaneError as error:
    sys.exit(str(error))
"""


@pytest.fixture
def fresh() -> Iterator[Host]:
    directory = Path(tempfile.mkdtemp(dir="/run", prefix="skleft"))
    directory.chmod(0o755)
    made = Host("left", directory)
    try:
        yield made
    finally:
        made.close()
        shutil.rmtree(directory)


def controller(host: Host) -> str:
    """Do as the controller does; return what it says."""
    command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", f"--inh-caps=-all,{CAPABILITIES}"]
    command += [f"--ambient-caps=-all,{CAPABILITIES}", f"--bounding-set=-all,{CAPABILITIES}", "--no-new-privs"]
    words = [*command, sys.executable, "-c", AS_CONTROLLER, str(host.pins)]
    return subprocess.run(words, capture_output=True, text=True, check=False).stderr.strip()


def test_what_is_lent_is_taken_away_and_nothing_else_may_be(fresh: Host) -> None:
    with fresh.inside():
        loader.Loader(loader.Options(fresh.pins, str(fresh.cgroup), "nogroup")).load()
        run("ip", "link", "add", "lan0", "type", "veth", "peer", "name", "lan1")
        netlink = Netlink()
        driver = LanDriver(str(fresh.pins), netlink)
        driver.put("lo", LanDevice(loop=True))
        driver.put("lan0", LanDevice())
        assert RetiredEbpf.found(fresh.pins)
        assert "skedge-loader unload" in controller(fresh), "not before the loader lets it"
        loader.Loader(loader.Options(fresh.pins, str(fresh.cgroup), "nogroup")).load()
        driver.put("lan0", LanDevice())
        pins.lend(fresh.pins, "nogroup")
        assert attached(fresh).keys() == {one.link_pin for one in PROGRAMS if one.cgroup}
        assert controller(fresh) == ""
        assert not any(fresh.pins.iterdir())
        assert lan_devices.attached(netlink) == []
        assert Path("/proc/sys/net/ipv4/conf/lo/route_localnet").read_text().strip() == "0"
        pins.lend(fresh.pins, "nogroup")
        assert not fresh.pins.exists(), "the empty directory goes with the next start"
        netlink.close()
