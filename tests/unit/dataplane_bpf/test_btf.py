from __future__ import annotations

import os
from pathlib import Path

import pytest

from skedge.core.errors import HostError
from skedge.dataplane.bpf import btf


@pytest.mark.skipif(not os.path.exists(btf.VMLINUX), reason="this kernel has no BTF")
def test_members_of_this_kernel() -> None:
    """The head of struct sock_common is the same in every kernel."""
    places = btf.member_places({"sock_common": ("skc_daddr", "skc_rcv_saddr", "skc_dport", "skc_num", "skc_family")})
    assert [place.byte for place in places.values()] == [0, 4, 12, 14, 16]  # nested in anonymous unions
    assert all(place.bit == 0 for place in places.values())
    with pytest.raises(HostError, match="no member nonsense"):
        btf.member_places({"sock": ("nonsense",)})
    with pytest.raises(HostError, match="no struct nonsense"):
        btf.member_places({"nonsense": ("x",)})


@pytest.mark.skipif(not os.path.exists(btf.VMLINUX), reason="this kernel has no BTF")
def test_constants_of_this_kernel() -> None:
    """Those of states are the same in every kernel; where one lacks, it is another kernel's list."""
    assert btf.enumerators(("BPF_TCP_CLOSING", "BPF_TCP_ESTABLISHED")) == {
        "BPF_TCP_CLOSING": 11,
        "BPF_TCP_ESTABLISHED": 1,
    }
    assert btf.enumerators(("BPF_TCP_LISTEN", "BPF_TCP_NONSENSE")) == {}


def test_no_type_information(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="needs a kernel with BTF"):
        btf.member_places({"sock": ("sk_err",)}, str(tmp_path / "none"))
    (tmp_path / "bad").write_bytes(bytes(64))
    with pytest.raises(HostError, match="not BTF"):
        btf.member_places({"sock": ("sk_err",)}, str(tmp_path / "bad"))
