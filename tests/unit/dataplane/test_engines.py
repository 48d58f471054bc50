"""Which engine serves: the loader's decision, and what the controller reads of it; settings of IPVS; default deny."""

from __future__ import annotations

from pathlib import Path

import pytest

from skedge.core.desired.reconcile import reconcile
from skedge.core.errors import DataplaneError, HostError
from skedge.core.model import EngineKind, LinkId
from skedge.core.objects import LinkDevice
from skedge.core.reasons import Reason
from skedge.core.transports import Transport
from skedge.dataplane import engine_choice
from skedge.dataplane.ebpf.packet_check import PacketCheckConfig
from skedge.dataplane.engine_choice import Verdict, decide
from skedge.dataplane.ipvs import sysctls
from skedge.dataplane.nftables import default_deny
from skedge.dataplane.nftables.chain_groups import ChainGroupDriver
from skedge.dataplane.nftables.default_deny import NEIGHBOURS, DefaultDeny
from skedge.dataplane.nftables.table import READ_EVERY_S, NftTable
from tests.fakes.fake_nft import FakeNft
from tests.kit.rows import make

AUTO, EBPF, IPVS = EngineKind.AUTO, EngineKind.EBPF, EngineKind.IPVS


class Load:
    def __init__(self, error: str = "") -> None:
        self.error, self.calls = error, 0

    def __call__(self) -> None:
        self.calls += 1
        if self.error:
            raise HostError(self.error)


@pytest.mark.parametrize(
    ("wanted", "serves", "error", "ipvs", "engine", "loaded"),
    [
        (AUTO, None, "", True, EBPF, 1),
        (AUTO, None, "no BTF", True, IPVS, 1),
        (AUTO, EBPF, "", True, EBPF, 1),
        (AUTO, IPVS, "", True, IPVS, 0),
        (EBPF, EBPF, "", False, EBPF, 1),
        (IPVS, None, "", True, IPVS, 0),
        (IPVS, IPVS, "", True, IPVS, 0),
        (IPVS, EBPF, "", True, IPVS, 0),
        (EBPF, IPVS, "", True, EBPF, 1),
    ],
)
def test_the_engine_is_what_is_wanted_and_possible(wanted, serves, error, ipvs, engine, loaded) -> None:
    load = Load(error)
    made = decide(wanted, serves, load, lambda: ipvs)
    assert (made.engine, load.calls) == (engine, loaded)
    assert error in made.why
    assert made.why


@pytest.mark.parametrize(
    ("wanted", "serves", "error", "ipvs", "words"),
    [
        (AUTO, None, "no BTF", False, "no BTF; and this kernel has no IPVS"),
        (AUTO, EBPF, "no headers", True, "^no headers$"),
        (EBPF, None, "no BTF", True, "^no BTF$"),
        (IPVS, None, "", False, "engine ipvs: this kernel has no IPVS .*give engine: ebpf"),
    ],
)
def test_what_cannot_be_is_one_sentence_and_nothing_is_loaded(wanted, serves, error, ipvs, words) -> None:
    load = Load(error)
    with pytest.raises(HostError, match=words):
        decide(wanted, serves, load, lambda: ipvs)
    assert load.calls == bool(error)


def test_the_controller_reads_what_the_loader_wrote(tmp_path: Path) -> None:
    path = tmp_path / "engine.json"
    assert engine_choice.read(AUTO, tmp_path, path).engine is EBPF
    engine_choice.write(Verdict(IPVS, "no BTF"), path)
    assert engine_choice.read(AUTO, tmp_path, path) == Verdict(IPVS, "no BTF")
    assert engine_choice.read(EBPF, tmp_path, path) == Verdict(EBPF, "configured")
    path.write_text("{")
    (tmp_path / "config_v1").touch()
    assert engine_choice.read(AUTO, tmp_path, path) == Verdict(EBPF, "it serves already")
    engine_choice.write(Verdict(IPVS, "x"), tmp_path / "none" / "engine.json")


def test_what_serves_is_seen_in_the_kernel(tmp_path: Path) -> None:
    table = tmp_path / "ip_vs"
    assert engine_choice.serving(tmp_path, table) is None
    head = "IP Virtual Server version 1.2.1 (size=4096)\nProt\n  -> RemoteAddress:Port Forward\n"
    table.write_text(head + "FWM  00000007 wlc \n")
    assert engine_choice.serving(tmp_path, table) is None
    table.write_text(head + "FWM  5CED0002 wlc \n")
    assert engine_choice.serving(tmp_path, table) is IPVS
    (tmp_path / "config_v1").touch()
    assert engine_choice.serving(tmp_path, table) is EBPF


def test_settings_are_set_once_and_taken_back(tmp_path: Path) -> None:
    for name, value in {"conntrack": "0", "expire_nodest_conn": "1", "expire_quiescent_template": "0"}.items():
        (tmp_path / name).write_text(value + "\n")
    before: dict[str, str] = {}
    driver = sysctls.SettingDriver(before, directory=tmp_path)
    assert make(driver, sysctls.WANTED)
    assert not make(driver, sysctls.WANTED)
    assert {one.name: one.read_text().strip() for one in tmp_path.iterdir()} == sysctls.WANTED
    assert before == {"conntrack": "0", "expire_quiescent_template": "0"}
    (tmp_path / "expire_quiescent_template").write_text("2\n")
    assert sysctls.undo(before, tmp_path) == ["conntrack"], "what somebody changed since is left"
    assert (tmp_path / "expire_nodest_conn").read_text() == "1\n"
    none = sysctls.SettingDriver({"conntrack": "0"}, directory=tmp_path / "none")
    with pytest.raises(DataplaneError, match="is /proc/sys writable"):
        none.put("conntrack", "1")


# ---- default deny ----------------------------------------------------------------------------------------------

CONFIG = PacketCheckConfig("100.64.0.1", "fd00:1:2::1", "100.64.0.0/10", "fd00:1:2::/48", 7401, 7402, (61000, 62999))
DEVICE = LinkDevice(LinkId("a", "b"), Transport.VXLAN, "fe80::1", "fe80::2")


class Guard(DefaultDeny):
    """With its chains, as the controller keeps them."""

    def __init__(self, table: NftTable, names: dict[int, str]) -> None:
        super().__init__(table, lambda index: names[index])
        self.chains = ChainGroupDriver(table, default_deny.OWNED)

    def configure(self, config: PacketCheckConfig) -> bool:
        return bool(reconcile(self.chains, {default_deny.NAME: default_deny.group(config)}).changed)


def guard() -> tuple[Guard, FakeNft, list[float]]:
    nft, now = FakeNft(), [0.0]
    names = {3: "sk-ab", 4: "sk-ac"}
    return Guard(NftTable(nft, lambda: now[0]), names), nft, now


def test_the_chain_is_written_once_and_again_when_somebody_changed_it() -> None:
    made, nft, now = guard()
    assert made.configure(CONFIG)
    assert not made.configure(CONFIG)
    rules = len(nft.rules)
    nft.rules.pop(5)
    now[0] += READ_EVERY_S + 1
    assert made.configure(CONFIG)
    assert len(nft.rules) == rules
    other = PacketCheckConfig("100.64.0.9", "fd00:1:2::1", "100.64.0.0/10", "fd00:1:2::/48", 7401, 7402, (61000, 62999))
    assert made.configure(other)
    assert "100.64.0.9" in str(nft.chain("overlay-in"))
    assert "'100.64.0.1'" not in str(nft.chain("overlay-in"))


def test_a_device_is_protected_once_its_far_end_is_known_and_the_chain_is_there() -> None:
    made, nft, now = guard()
    made.protect(3, DEVICE)
    assert not made.protected(3, DEVICE), "without the chain the sets hold nothing off"
    made.configure(CONFIG)
    assert made.protected(3, DEVICE)
    assert not made.protected(4, DEVICE)
    moved = LinkDevice(LinkId("a", "b"), Transport.VXLAN, "fe80::1", "fe80::7")
    assert not made.protected(3, moved)
    made.protect(3, moved)
    assert nft.elements(NEIGHBOURS) == [{"concat": ["sk-ab", "fe80::7"]}]
    made.protect(4, DEVICE)
    made.forget(3)
    assert nft.elements(NEIGHBOURS) == [{"concat": ["sk-ac", "fe80::2"]}]
    made.forget(3)
    nft.rules.clear()
    now[0] += READ_EVERY_S + 1
    assert not made.protected(4, DEVICE)


def test_what_was_refused_is_counted_by_reason() -> None:
    made, nft, _ = guard()
    made.configure(CONFIG)
    assert made.drops() == {}
    nft.objects["counter", "denied-not-published"]["packets"] = 3
    nft.objects["counter", "denied-not-neighbour"]["packets"] = 1
    nft.objects["counter", "denied-overload"] = {"name": "denied-overload", "packets": 2}
    assert made.drops() == {Reason.NOT_PUBLISHED: 3, Reason.NOT_NEIGHBOUR: 1, Reason.OVERLOAD: 2}
