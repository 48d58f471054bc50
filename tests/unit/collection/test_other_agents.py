"""What pre-flight says of other agents: cgroup filters of units, a keepalived that watches what yields its port."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.skedge.edge.plugins.module_utils import keepalived, readings, takeover, units
from ansible_collections.skedge.edge.plugins.module_utils.sockets import Bound

OVERLAYS = ["100.64.0.0/10", "fd00::/8"]
EVERYTHING = "0.0.0.0/0 ::/0"


def shown(**given: dict[str, str]) -> str:
    """Return what ``systemctl show`` says of units; two underscores are a dot, and one a dash."""
    names = {name.replace("__", ".").replace("_", "-"): settings for name, settings in given.items()}
    blocks = [{"Id": name, "Slice": "system.slice", "PrivateNetwork": "no", **more} for name, more in names.items()]
    return "\n\n".join("\n".join(f"{key}={value}" for key, value in block.items()) for block in blocks)


def warned(text: str, workloads: dict[str, str] | None = None, version: str = "+BPF_FRAMEWORK") -> list[str]:
    return units.warnings(units.parse(text, version), OVERLAYS, workloads or {})


def test_a_client_that_may_not_send_to_the_overlay_is_named_with_the_way_out():
    text = shown(
        shop__service={"IPAddressDeny": EVERYTHING, "IPAddressAllow": "127.0.0.0/8 10.0.0.0/8"},
        fine__service={"IPAddressDeny": EVERYTHING, "IPAddressAllow": "100.64.0.0/10 fd00::/8"},
        some__service={"IPAddressDeny": "100.64.7.0/24"},
        open__service={"IPAddressDeny": "", "IPAddressAllow": ""},
        alone__service={"IPAddressDeny": EVERYTHING, "PrivateNetwork": "yes"},
        systemd_logind__service={"IPAddressDeny": EVERYTHING},
    )
    assert [one.split()[0] for one in warned(text)] == ["shop.service", "some.service"]
    assert warned(text)[0] == (
        "shop.service may not send to the overlay (IPAddressDeny=): its connections to workloads of other sites will "
        "hang; add IPAddressAllow=100.64.0.0/10 fd00::/8 to the unit where it is a client of listeners"
    )
    assert warned("") == []


def test_a_workload_that_hears_nothing_from_other_sites_is_named_as_one():
    """Its health check comes from 127.0.0.1, so all is green."""
    denying = {"IPAddressDeny": EVERYTHING, "IPAddressAllow": "127.0.0.0/8 ::1/128"}
    (told,) = warned(shown(shop__service=denying), {"shop.service": "web"})
    assert told.startswith("shop.service, a workload of service web, gets nothing from other sites (IPAddressDeny=)")


def test_skedge_itself_needs_its_neighbours_on_links_too():
    denying = {"IPAddressDeny": EVERYTHING, "IPAddressAllow": " ".join(OVERLAYS), "SocketBindDeny": "any"}
    links, ports = warned(shown(skedge__service=denying))
    assert links.startswith("skedge.service itself may not use links (IPAddressDeny=)")
    assert "fe80::/10" in links
    assert "SocketBindDeny=" in ports
    allowing = {**denying, "IPAddressAllow": " ".join([*OVERLAYS, "fe80::/10"]), "SocketBindAllow": "any"}
    assert warned(shown(skedge__service=allowing)) == []
    assert warned(shown(shop__service={"SocketBindDeny": "any"})) == [], "it keeps nobody from what skedge does"


def test_a_unit_that_may_use_some_devices_only_is_named_where_systemd_does_it():
    devices = {"RestrictNetworkInterfaces": "lo eth0"}
    (told,) = warned(shown(shop__service=devices))
    assert "(RestrictNetworkInterfaces=)" in told
    assert warned(shown(shop__service=devices), version="systemd 252 -BPF_FRAMEWORK") == []
    assert warned(shown(shop__service={"RestrictNetworkInterfaces": "~eth0"})) == []


def test_what_a_slice_denies_its_units_are_denied():
    denying = {"IPAddressDeny": EVERYTHING, "Slice": "-.slice"}
    text = shown(
        system__slice=denying, shop__service={}, free__service={"Slice": "other.slice"},
        fine__service={"IPAddressAllow": " ".join(OVERLAYS)},
    )  # fmt: skip
    assert [one.split()[0] for one in warned(text)] == ["shop.service"]


# ---- keepalived ------------------------------------------------------------------------------------------------

LISTENER = {"service": "web", "port": 80, "takeover": "haproxy.service"}
LOOKED = ([Bound("tcp", "0.0.0.0", 80, 5)], {5: ("haproxy", 77)}, {77: "haproxy.service"})
SCRIPT = 'vrrp_script chk {\n  script "%s"\n  interval 2\n}\nvrrp_instance VI { track_script { chk } }\n'


def told(text: str) -> list[str]:
    return keepalived.problems(keepalived.watches(text), takeover.holders([LISTENER], *LOOKED))


@pytest.mark.parametrize(
    "text",
    [
        SCRIPT % "killall -0 haproxy",
        SCRIPT % "/usr/bin/pgrep -x haproxy",
        SCRIPT % "/bin/systemctl is-active --quiet haproxy.service",
        SCRIPT % "kill -0 $(cat /run/haproxy.pid)",
        'vrrp_script chk { script "pidof haproxy" }',
        "vrrp_track_process chk {\n    process haproxy\n    quorum 1\n}\n",
        'vrrp_track_process chk {\n    process "/usr/sbin/haproxy"\n}\n',
    ],
)
def test_a_keepalived_that_watches_the_process_is_named(text: str):
    (problem,) = told(text)
    assert problem.startswith("keepalived (vrrp_")
    assert " chk) watches haproxy, whose port 80 a listener takes" in problem
    assert "skedge_preflight_skip: [takeover]" in problem


@pytest.mark.parametrize(
    "text",
    [
        "",
        SCRIPT % "nc -z 127.0.0.1 80",
        SCRIPT % "curl -fs http://haproxy.example.org/",
        SCRIPT % "killall -0 nginx",
        SCRIPT % "true" + "# script killall -0 haproxy\n! process haproxy\n",
        "vrrp_track_process chk {\n process haproxy-exporter\n}\n",
        "vrrp_instance haproxy {\n}\n",
    ],
)
def test_one_that_watches_something_else_is_no_problem(text: str):
    assert told(text) == []


class Module:
    @staticmethod
    def get_bin_path(name: str, opt_dirs: list[str]) -> str:
        return "/usr/sbin/keepalived"


def test_a_script_that_is_a_program_and_bytes_that_are_no_text_are_read_past(tmp_path: Path):
    program = tmp_path / "pgrep"
    program.write_bytes(b"\x7fELF\x02\x01\x01\x82 haproxy")
    (tmp_path / "keepalived.conf").write_bytes(b"# caf\xe9\n" + (SCRIPT % f"{program} -x haproxy").encode())
    found = readings.keepalived_watches(Module(), str(tmp_path / "keepalived.conf"))
    assert len(keepalived.problems(found, {"haproxy": 80, "nginx": 81})) == 1


def test_scripts_and_included_files_are_read(tmp_path: Path):
    script = tmp_path / "check.sh"
    script.write_text("#!/bin/sh\n# not nginx\nif ! pidof haproxy; then exit 1; fi\n")
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d/one.conf").write_text(SCRIPT % f"{script} fast")
    (tmp_path / "keepalived.conf").write_text("global_defs {\n}\ninclude conf.d/*.conf\n")
    found = readings.keepalived_watches(Module(), str(tmp_path / "keepalived.conf"))
    assert len(keepalived.problems(found, {"haproxy": 80})) == 1
    assert keepalived.problems(found, {"nginx": 80}) == []
    assert readings.keepalived_watches(Module(), str(tmp_path / "none")) == []


def test_units_that_stop_with_what_yields_its_port_are_named():
    text = "RequiredBy=keepalived.service\nBoundBy=\nConsistsOf=exporter.service keepalived.service\n"
    assert units.followers(text) == ["exporter.service", "keepalived.service"]
    assert units.stopped("haproxy.service", []) == []
    (problem,) = units.stopped("haproxy.service", ["keepalived.service"])
    assert problem.startswith("stopping haproxy.service, whose port a listener takes over, also stops keepalived.servi")
    assert takeover.yielding([LISTENER], *LOOKED) == ["haproxy.service"]
    assert takeover.yielding([{**LISTENER, "port": 81}], *LOOKED) == []


def test_whose_workload_a_unit_is_shows_by_its_socket():
    connector = {"service": "web", "host": "127.0.0.1", "port": 80}
    assert takeover.units_at(connector, *LOOKED) == ["haproxy.service"]
    assert takeover.units_at({**connector, "port": 81}, *LOOKED) == []
