"""The file of names is the one that the version before wrote (commit 7b0c905): an upgrade keeps all of them."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from skedge.core.model import TERMS, Protocol, Term, WorkloadId
from skedge.core.objects import (
    Candidate,
    Endpoint,
    EndpointKey,
    ListenerKey,
    ListenerTarget,
    ServiceKey,
    ServiceTable,
    Target,
)
from skedge.core.reasons import Reason
from skedge.dataplane.ipvs import names_file
from skedge.dataplane.ipvs.names_file import Memory, Virtual

MEMORY = Memory(
    {
        Virtual(ServiceKey("web")): 17,
        Virtual(ServiceKey("dns", Protocol.UDP), ListenerKey("10.0.0.1", 53, Protocol.UDP)): 9,
    },
    {
        ServiceKey("web"): ServiceTable(
            (
                Candidate(
                    WorkloadId("a", "web"),
                    0,
                    capacity=4,
                    others=7,
                    target4=Target("127.0.0.1", 80),
                    target6=None,
                    own_site=True,
                    off_host=True,
                ),
                Candidate(
                    WorkloadId("b", "web"),
                    10,
                    capacity=1,
                    others=0,
                    target4=Target("100.64.0.2", 61000),
                    target6=Target("fd00::2", 61000),
                    out=Reason.DRAINED,
                ),
                Candidate(WorkloadId("c", "web"), 20, capacity=1, out=Reason.UNREACHABLE),
            )
        )
    },
    {
        ListenerKey("10.0.0.1", 80): ListenerTarget(ServiceKey("web"), (ServiceKey("web"), ServiceKey("spare")), 0),
        ListenerKey("10.0.0.1", 53, Protocol.UDP): ListenerTarget(ServiceKey("dns", Protocol.UDP), (), 60),
    },
    {EndpointKey(61000): Endpoint(WorkloadId("a", "web"), "10.0.0.9", 80, True)},
    {"conntrack": "0"},
)
RECORDED = (
    '{"where":"boot here","idents":[[["web","tcp"],null,17],[["dns","udp"],["10.0.0.1",53,"udp"],9]],"tab'
    'les":[[["web","tcp"],[["a","web",0,4,7,["127.0.0.1",80],null,true,true,0],["b","web",10,1,0,["100.64'
    '.0.2",61000],["fd00::2",61000],false,false,11],["c","web",20,1,0,null,null,false,false,12]]]],"liste'
    'ners":[["10.0.0.1",80,"tcp",["web","tcp"],[["web","tcp"],["spare","tcp"]],0],["10.0.0.1",53,"udp",["'
    'dns","udp"],[],60]],"endpoints":[[61000,"tcp","a","web","10.0.0.9",80,true]],"settings":{"conntrack"'
    ':"0"}}'
)


def test_the_file_of_the_version_before_is_read_and_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names_file, "where", lambda: "boot here")
    path = tmp_path / "ipvs.json"
    path.write_text(RECORDED)
    assert names_file.load(path) == MEMORY
    names_file.save(path, MEMORY)
    assert path.read_text() == RECORDED


def test_a_reason_of_a_newer_version_leaves_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names_file, "where", lambda: "boot here")
    path = tmp_path / "ipvs.json"
    path.write_text(RECORDED.replace("false,false,12]", "false,false,127]"))
    assert names_file.load(path) == Memory(settings={"conntrack": "0"})


def test_a_term_that_came_later_is_appended_and_may_be_missing() -> None:
    twin = names_file.row_twin((*TERMS, Term("priority", 2, 0, 15)))
    older = ["c", "web", 20, 1, 0, None, None, False, False, 12]
    assert msgspec.convert(older, twin).priority == 2  # type: ignore[attr-defined]
    assert msgspec.to_builtins(msgspec.convert([*older, 9], twin)) == [*older, 9]
