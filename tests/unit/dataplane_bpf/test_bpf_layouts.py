"""The layouts in Python are those of bpf/placement/types.h, and the constants those of the headers."""

from __future__ import annotations

import ctypes
import os
import re
import struct
from collections.abc import Callable

import pytest

from skedge.core.model import Protocol
from skedge.core.objects import ListenerKey, ServiceKey, Target
from skedge.core.placement.policies import SCHEDULE_SIZE
from skedge.core.reasons import Reason
from skedge.core.stalls import StallKind
from skedge.dataplane.bpf.programs import LAN_PROGRAMS, PICK_TEST, PROGRAMS
from skedge.dataplane.ebpf import layout_listener, layout_service, stalled
from skedge.dataplane.ebpf import layout_placement as layout
from skedge.dataplane.ebpf.lan import layout_flow as flows
from skedge.dataplane.ebpf.recount import Recount
from skedge.loader.compiling import reasons_header
from skedge.loader.compiling.sources import SOURCES, source_text

TYPES: dict[str, type] = {
    "__u64": ctypes.c_uint64,
    "__u32": ctypes.c_uint32,
    "__s32": ctypes.c_int32,
    "__u16": ctypes.c_uint16,
    "__u8": ctypes.c_uint8,
    "struct bpf_spin_lock": ctypes.c_uint32,
    "char": ctypes.c_char,
}
CONSTANTS = {
    name: value
    for header in ("common/limits.h", "common/reasons.h")
    for name, value in re.findall(
        r"^(?:#define | +(?=REASON_))(\w+) (?:= )?(0x[0-9a-f]+|\d+)u?\b", (SOURCES / header).read_text(), re.M
    )
}


def number(text: str) -> int:
    return int(CONSTANTS.get(text, text), 0)


def c_structs() -> dict[str, type[ctypes.Structure]]:
    """The C structs as ctypes lays them out: by the same rules of alignment as the compiler."""
    text = "".join(
        (SOURCES / header).read_text()
        for header in (
            "placement/types.h",
            "placement/maps.h",
            "common/tail_calls.h",
            "nat/flow/types.h",
            "socket/stalled.h",
        )
    )
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.S)
    known: dict[str, type] = dict(TYPES)
    found: dict[str, type[ctypes.Structure]] = {}
    for name, body in re.findall(r"^struct (\w+) \{(.*?)\};", text, re.M | re.S):
        fields: list[tuple[str, type]] = []
        for kind, member, length in re.findall(r"((?:struct )?\w+) (\w+)(?:\[(\w+)\])?;", body):
            base = known[kind]
            fields.append((member, base * number(length) if length else base))
        found[name] = known[f"struct {name}"] = type(name, (ctypes.Structure,), {"_fields_": fields})
    return found


STRUCTS = c_structs()


def flat(kind: type[ctypes.Structure], base: int = 0) -> list[tuple[int, int]]:
    """(offset, size) of all members, with nested structs opened and arrays of numbers as one."""
    found = []
    for name, member in kind._fields_:  # type: ignore[misc]
        at = base + getattr(kind, name).offset
        if issubclass(member, ctypes.Structure):
            found += flat(member, at)
        else:
            found.append((at, ctypes.sizeof(member)))
    return found


def offsets(packed: struct.Struct) -> list[tuple[int, int]]:
    """(offset, size) of the items of a struct format (without padding, "=")."""
    found, at = [], 0
    for count, code in re.findall(r"(\d*)([A-Za-z])", packed.format):
        for size in [int(count)] if code in "sx" else [struct.calcsize("=" + code)] * int(count or 1):
            found.append((at, size))
            at += size
    return found


def boundaries(pairs: list[tuple[int, int]]) -> set[int]:
    return {at for at, _ in pairs} | {at + size for at, size in pairs}


@pytest.mark.parametrize(
    ("name", "packed", "size"),
    [
        ("slot", layout_service.Service.SLOT, layout_service.Service.SLOT.size),
        ("staged_slot", layout_service.StagedSlot.STRUCT, layout_service.StagedSlot.STRUCT.size),
        ("config", layout.Config.STRUCT, layout.Config.SIZE),
        ("news", layout.NEWS, layout.NEWS.size),
        ("listener", layout_listener.ListenerValue.STRUCT, layout_listener.ListenerValue.STRUCT.size),
        ("affinity_key", layout_listener.AFFINITY_KEY, layout_listener.AFFINITY_KEY.size),
        ("affinity", layout_listener.AFFINITY, layout_listener.AFFINITY.size),
        ("listener_key", layout.LISTENER, layout.LISTENER.size),
        ("placement_record", layout.PlacementRecord.STRUCT, layout.PlacementRecord.STRUCT.size),
        ("socket_record", layout.PlacementRecord.STORED, layout.PlacementRecord.STORED.size),
        ("logged_slot", layout.LoggedPick.SLOT, layout.LoggedPick.SLOT.size),
        ("service", layout_service.Service.HEADER, layout_service.Service.SIZE),
        ("staged", layout_service.Staged.HEADER, layout_service.Staged.SIZE),
        ("recount", Recount.STRUCT, Recount.STRUCT.size),
        ("flow_sums", flows.FlowTotals.STRUCT, flows.FlowTotals.STRUCT.size),
        ("logged_pick", layout.LoggedPick.HEADER, layout.LoggedPick.SIZE),
        ("service_name", layout.SERVICE_NAME, layout.SERVICE_NAME.size),
        ("workload_key", layout.WORKLOAD_KEY, layout.WORKLOAD_KEY.size),
        ("workload_name", layout.WORKLOAD_NAME, layout.WORKLOAD_NAME.size),
        ("nat_key", flows.FlowKey.STRUCT, flows.FlowKey.SIZE),
        ("nat_flow", flows.FlowEntry.STRUCT, flows.FlowEntry.SIZE),
        ("nat_config", flows.NatConfig.STRUCT, flows.NatConfig.STRUCT.size),
        ("nat_addresses", flows.NatAddresses.STRUCT, flows.NatAddresses.STRUCT.size),
        ("nat_record", flows.FlowKey.STRUCT, flows.FlowRecord.SIZE),
        ("stalled_record", stalled.RECORD, stalled.RECORD.size),
    ],
)
def test_layout(name: str, packed: struct.Struct, size: int) -> None:
    assert ctypes.sizeof(STRUCTS[name]) == size
    ours, theirs = boundaries(offsets(packed)), boundaries(flat(STRUCTS[name]))
    # Every member begins where an item begins; a network-order port is two bytes of its four.
    assert {at for at in theirs if at <= packed.size} <= ours | {packed.size}


def test_members_lie_where_they_are_read() -> None:
    """Offsets by name, so that two members of one size cannot change places unseen."""
    slot = layout_service.Service.SLOT.pack(*range(1, 10), b"\1\2\3\4", b"\0\5", b"\0\6", bytes(16), 7, 8)
    c = STRUCTS["slot"].from_buffer_copy(slot)
    names = ("path_cost", "capacity", "others", "flags", "mine", "last", "chosen", "refused", "suspended")
    assert [getattr(c, name) for name in names] == list(range(1, 10))
    assert c.generation == 7
    staged = layout_service.StagedSlot(1, 2, 3, 4, 5, Target("1.2.3.4", 6), Target("::7", 8), 9, 10, -11)
    s = STRUCTS["staged_slot"].from_buffer_copy(staged.pack())
    fields = ("apply", "path_cost", "capacity", "others", "flags", "generation", "rank", "delta")
    assert [getattr(s, name) for name in fields] == [1, 2, 3, 4, 5, 9, 10, -11]
    assert bytes(s.addr6)[-1] == 7
    config = STRUCTS["config"].from_buffer_copy(layout.Config(1, 2, 3, 4, b"\5\0\0\0", bytes(16)).pack())
    assert [config.netns_cookie, config.digest, config.port_limit, config.sweep_before, config.overlay4] == [
        *(1, 2, 3, 4, 5)
    ]


def test_a_record_is_read_member_by_member() -> None:
    record = STRUCTS["placement_record"]()
    record.cookie, record.client_port = 1, 2
    at = record.placement
    word = layout.PLACED_VALID | 5 << 32 | 700 << 8 | 9
    at.placed, at.placed_at, at.version, at.choice, at.reason, at.protocol = word, 3, 4, 5, 13, 17
    at.listener_port = int.from_bytes((8080).to_bytes(2), "little")
    at.target_port = int.from_bytes((61000).to_bytes(2), "little")
    for weighed, first in ((at.winner, 10), (at.runner, 20)):
        weighed.slot, weighed.path_cost, weighed.capacity, weighed.open = range(first, first + 4)
    (read,) = layout.PlacementRecord.unpack_all(bytes(record))
    assert (read.service, read.slot, read.generation) == (700, 9, 5)
    assert (read.cookie, read.client_port, read.placed_at, read.version, read.choice, read.reason) == (
        1,
        2,
        3,
        4,
        5,
        13,
    )
    assert (read.listener.port, read.listener.protocol, read.target.port) == (8080, Protocol.UDP, 61000)
    assert (read.winner, read.runner) == (layout.Weighed(10, 11, 12, 13), layout.Weighed(20, 21, 22, 23))


def test_a_listener_lies_where_the_programs_read_it() -> None:
    value = layout_listener.ListenerValue(7, (7, 1023, 7), 60)
    raw = STRUCTS["listener"].from_buffer_copy(value.pack())
    assert (raw.service, raw.affinity_s, raw.position, raw.shares) == (7, 60, 0, 3)
    assert list(raw.members) == [1 << 7, *[0] * 14, 1 << 63]
    assert list(raw.schedule)[:4] == [7, 1023, 7, 0]
    assert layout_listener.ListenerValue.unpack(bytes(raw)) == value
    assert value.services == {7, 1023}
    pick = STRUCTS["logged_pick"]()
    pick.sequence, pick.limit, pick.version, pick.choice, pick.affinity = range(1, 6)
    pick.service, pick.need, pick.winner, pick.runner = range(6, 10)
    read = layout.LoggedPick.unpack(bytes(pick))
    assert (read.sequence, read.limit, read.version, read.choice, read.affinity) == (1, 2, 3, 4, 5)
    assert (read.service, read.need, read.winner, read.runner) == (6, 7, 8, 9)


def test_constants_are_those_of_the_headers() -> None:
    flags = {"USED": "SLOT_USED", "IN": "SLOT_IN", "T4": "SLOT_T4", "T6": "SLOT_T6", "ANY": "SLOT_ANY"}
    same = {"OWN_SITE": "SLOT_OWN_SITE", "OFF_HOST": "SLOT_OFF_HOST", "PRESERVES_SRC": "SLOT_PRESERVES_SRC"}
    same |= {"OUT_SHIFT": "SLOT_OUT_SHIFT", **flags}
    same |= {name: name for name in ("FIRST_CHOICE", "NAME_SIZE", "SPARE_WORDS", "MAX_SERVICES", "MAX_WORKLOADS")}
    same |= {f"APPLY_{word}": f"APPLY_{word}" for word in ("CONTROL", "OTHERS", "RESET", "RESUME", "DELTA")}
    for ours, theirs in same.items():
        there = layout_service if hasattr(layout_service, ours) else layout
        assert getattr(there, ours) == number(theirs), ours
    assert number("SCHEDULE_SIZE") == SCHEDULE_SIZE
    assert number("MEMBER_WORDS") * 64 == number("MAX_SERVICES")
    assert (number("CLASS_SMALL"), number("CLASS_MEDIUM"), number("MAX_WORKLOADS")) == layout_service.SIZES


def test_a_flow_is_read_member_by_member() -> None:
    entry = STRUCTS["nat_flow"]()
    raw = bytes(range(16)), bytes(range(16, 32))
    for member, value in (("from", raw[0]), ("to", raw[1])):
        for index in range(4):
            getattr(entry, member)[index] = int.from_bytes(value[4 * index : 4 * index + 4], "little")
    entry.from_port, entry.to_port = (int.from_bytes(port.to_bytes(2), "little") for port in (63001, 61000))
    entry.seen, entry.placed = 5, 7
    entry.state = flows.FlowBits.REPLY | flows.FlowBits.FIN | flows.Kind.LAN << flows.KIND_SHIFT
    read = flows.FlowEntry.unpack(bytes(entry))
    assert (read.source, read.destination) == tuple(layout.unpack_address(one) for one in raw)
    assert (read.source_port, read.destination_port, read.seen, read.placed) == (63001, 61000, 5, 7)
    assert (read.state, read.kind) == (flows.FlowBits.REPLY | flows.FlowBits.FIN, flows.Kind.LAN)
    config = STRUCTS["nat_config"].from_buffer_copy(flows.NatConfig(3, (4, 5), 6, 7, 8, 9, 10).pack())
    assert [config.device, config.low, config.high] == [3, 4, 5]
    times = [config.syn, config.established, config.fin, config.closed, config.udp]
    assert times == [number * flows.NANOSECONDS for number in range(6, 11)]
    told = flows.NatAddresses("100.64.0.9", "fd00::9", True, (4, 5), 6)
    nat = STRUCTS["nat_addresses"].from_buffer_copy(told.pack())
    assert [nat.flags, nat.low, nat.high, nat.udp_stream] == [1, 4, 5, 6 * flows.NANOSECONDS]
    assert bytes(nat.own6)[-1] == bytes(ctypes.c_uint32(nat.own4))[-1] == 9
    assert flows.NatAddresses.unpack(bytes(nat)) == told


def test_constants_of_flows_are_those_of_the_headers() -> None:
    text = "".join((SOURCES / header).read_text() for header in ("nat/flow/types.h", "common/tail_calls.h"))
    found = {
        name: int(value, 0) for name, value in re.findall(r"^#define (\w+) (0x[0-9a-f]+|\d+)(?:ull)?\b", text, re.M)
    }
    assert {one.name: one.value for one in flows.FlowBits} == {
        name[5:]: value for name, value in found.items() if name.startswith("FLOW_") and "SHIFT" not in name
    }
    assert {one.name: one.value for one in flows.Kind} == {
        name[5:]: value for name, value in found.items() if name.startswith("KIND_")
    }
    assert (found["FLOW_KIND_SHIFT"], found["FLOW_GENERATION_SHIFT"]) == (flows.KIND_SHIFT, flows.GENERATION_SHIFT)
    parts = {one.pin.removeprefix("lan_").removesuffix("_v1").upper(): one.entry for one in LAN_PROGRAMS}
    assert {name: entry for name, entry in parts.items() if entry is not None} == {
        name[4:]: value for name, value in found.items() if name.startswith("NAT_") and name[4:] in parts
    }


def test_reasons_are_those_of_the_core() -> None:
    codes = {name[7:]: number(value) for name, value in CONSTANTS.items() if name.startswith("REASON_")}
    assert codes == {reason.name: reason.code for reason in Reason}
    assert all(reason.code < number("MAX_REASONS") for reason in Reason)


def test_the_header_of_reasons_is_up_to_date() -> None:
    header = SOURCES / "common/reasons.h"
    command = "python -m skedge.loader.compiling.reasons_header > skedge/bpf/common/reasons.h"
    if os.environ.get("UPDATE_GOLDEN"):
        header.write_text(reasons_header.text())
    assert header.read_text() == reasons_header.text(), f"run: {command}"


def test_every_array_of_reasons_has_the_one_size() -> None:
    """No place of its own size for a count by reason, in any program (it would lose the codes behind it)."""
    texts = "".join(path.read_text() for path in SOURCES.rglob("*.[ch]"))
    sizes = dict(re.findall(r'BPF_TABLE_PINNED\("percpu_array", __u32, __u64, (\w+), (\w+),', texts))
    assert sizes == {"drops_v1": "MAX_REASONS", "link_drops_v2": "MAX_REASONS"}


@pytest.mark.parametrize(
    ("pack", "unpack", "value"),
    [
        (layout.pack_address, layout.unpack_address, "127.0.0.1"),
        (layout.pack_address, layout.unpack_address, "fd00::1"),
        (layout.pack_listener, layout.unpack_listener, ListenerKey("::1", 65535, Protocol.UDP)),
        (layout.pack_service_name, layout.unpack_service_name, ServiceKey("n" * 63, Protocol.UDP)),
    ],
)
def test_round_trip(pack: Callable[[object], bytes], unpack: Callable[[bytes], object], value: object) -> None:
    assert unpack(pack(value)) == value


def test_every_program_is_in_its_file_and_no_file_is_long() -> None:
    for program in (*PROGRAMS, PICK_TEST):
        assert re.search(rf"^int {program.function}\(", source_text(program.source), re.M), program
    for path in SOURCES.rglob("*.[ch]"):
        assert len(path.read_text().splitlines()) < 300, path


def test_what_holds_a_connection_up_is_told_by_the_same_numbers() -> None:
    text = (SOURCES / "socket/stalled.h").read_text()
    assert {name: int(value) for name, value in re.findall(r"^#define STALLED_(\w+) (\d+)", text, re.M)} == {
        one.name: one.value for one in StallKind
    }
