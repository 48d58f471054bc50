"""Prefixes within one another keep their own flags and paths: a look-up in the kernel's table finds the one around."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from skedge.dataplane.bpf import creation, syscall
from skedge.dataplane.ebpf.prefix_table import HERE, KEY, OTHERS_MAP, OWN, VALUE, PrefixTable, _pack
from skedge.loader.publish import pin

LPM_TRIE, NO_PREALLOC = 11, 1
AROUND = {4: "10.55.0.0/16", 6: "fd55::/48"}
WITHIN = {4: "10.55.0.1/32", 6: "fd55::1/128"}


@pytest.fixture
def table(bpffs: Path) -> Iterator[PrefixTable]:
    pins = bpffs / "prefixes"
    pins.mkdir()
    with syscall.Fd(creation.map_create(OTHERS_MAP, LPM_TRIE, KEY.size, VALUE.size, 64, NO_PREALLOC)) as fd:
        pin(fd, pins / OTHERS_MAP)
    yield PrefixTable(str(pins))
    (pins / OTHERS_MAP).unlink()
    pins.rmdir()


@pytest.mark.parametrize("v", [4, 6])
def test_an_address_of_this_host_in_a_lan_that_another_site_announces_is_not_announced(
    table: PrefixTable, v: int
) -> None:
    table.put(AROUND[v], HERE)
    table.put_paths(AROUND[v], 1040)
    table.put_own(WITHIN[v])
    table.put_paths(WITHIN[v], 7)
    assert (table.read(), table.own(), table.paths()) == ({AROUND[v]: HERE}, {WITHIN[v]: ""}, {AROUND[v]: 1040})
    table.delete_own(AROUND[v])
    table.delete(WITHIN[v])
    assert (table.read(), table.own(), table.paths()) == ({AROUND[v]: HERE}, {WITHIN[v]: ""}, {AROUND[v]: 1040})
    table.put(WITHIN[v])
    assert (table.read(), table.own()) == ({AROUND[v]: HERE, WITHIN[v]: 0}, {WITHIN[v]: ""})
    table.delete_own(WITHIN[v])
    assert (table.read(), table.own()) == ({AROUND[v]: HERE, WITHIN[v]: 0}, {})
    table.delete(WITHIN[v])
    assert (table.read(), table.own(), table.paths()) == ({AROUND[v]: HERE}, {}, {AROUND[v]: 1040})


def test_what_a_version_wrote_that_noted_no_length_is_found_as_exactly(table: PrefixTable) -> None:
    with table._map() as fd:
        for prefix, flags in ((AROUND[4], HERE), (WITHIN[4], OWN)):
            syscall.map_update(fd, _pack(prefix), VALUE.pack(flags, 0))
    table.put_own("10.55.0.2/32")
    assert (table.read(), table.own()) == ({AROUND[4]: HERE}, {WITHIN[4]: "", "10.55.0.2/32": ""})
    table.delete_own(WITHIN[4])
    assert (table.read(), table.own()) == ({AROUND[4]: HERE}, {"10.55.0.2/32": ""})
