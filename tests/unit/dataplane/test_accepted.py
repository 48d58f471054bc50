"""The chains behind the host's own rules: one in each family, in tables of their own, told apart from other changes."""

from __future__ import annotations

from skedge.core.desired.reconcile import reconcile
from skedge.dataplane.nftables import accepted
from skedge.dataplane.nftables.accepted import AcceptedDriver
from skedge.dataplane.nftables.syntax import ASKED, DROP
from skedge.dataplane.nftables.table import NftTable
from tests.fakes.fake_nft import FakeNft


class Chains:
    """The driver over one fake a family."""

    def __init__(self) -> None:
        self.nft = {"ip": FakeNft(), "ip6": FakeNft()}
        self.driver = AcceptedDriver(lambda family: NftTable(self.nft[family], family=family))

    def ensure(self, *, honoured: bool) -> bool:
        self.driver.forget()
        return bool(reconcile(self.driver, accepted.wanted(honoured=honoured)).changed)


def test_what_was_let_through_goes_over_lo_and_nowhere_else() -> None:
    chains = Chains()
    assert chains.ensure(honoured=True)
    assert not chains.ensure(honoured=True)
    for family, address in (("ip", "127.0.0.1"), ("ip6", "::1")):
        nft = chains.nft[family]
        copied, again = nft.chain("accepted")
        assert (copied[0], copied[2:]) == (ASKED, [{"dup": {"addr": address, "dev": "lo"}}, DROP])
        assert again == [ASKED, DROP]
        chain = nft.objects["chain", "accepted"]
        assert (chain["family"], chain["hook"], chain["policy"]) == (family, "input", "accept")
        assert {rule["family"] for rule in nft.rules} == {family}


def test_a_rule_of_somebody_else_is_no_rule_of_ours() -> None:
    chains = Chains()
    chains.ensure(honoured=True)
    chains.nft["ip6"].rules.pop()
    assert chains.ensure(honoured=True)
    assert len(chains.nft["ip6"].rules) == 2
    assert (chains.nft["ip"].scripts, chains.nft["ip6"].scripts) == (1, 2)


def test_bypass_leaves_nothing_behind() -> None:
    chains = Chains()
    chains.ensure(honoured=True)
    assert chains.driver.names() == ["ip skedge", "ip6 skedge"]
    assert chains.ensure(honoured=False)
    assert not any(nft.objects or nft.rules for nft in chains.nft.values())
