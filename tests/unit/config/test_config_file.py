"""The file itself: YAML that is refused, limits, and what a good file becomes."""

from __future__ import annotations

from pathlib import Path

import pytest

from skedge.config import load, loads
from skedge.config.loader import SIZE_MAX
from skedge.core import names
from skedge.core.errors import ConfigError, ExitCode
from skedge.core.model import (
    Affinity,
    Connector,
    EngineKind,
    FlowTimes,
    Health,
    HealthType,
    Lan,
    LanFirewall,
    Link,
    Listener,
    Metrics,
    Policy,
    Probe,
    Protocol,
    Share,
    SiteConfig,
)
from skedge.core.transports import Transport

HERE = Path(__file__).parent
MINIMAL = "network: demo\nsite: edge-a\n"


def test_full_file() -> None:
    assert load(str(HERE / "full.yaml")) == SiteConfig(
        engine=EngineKind.EBPF,
        network="demo",
        site="edge-a",
        overlay_cidr="100.64.0.0/10",
        overlay4="100.70.1.2",
        overlay6="fde7:3405:4cf7::5",
        nat4="100.70.1.3",
        nat6=str(names.nat_address6("demo", "edge-a")),
        endpoint_ports=(61000, 61999),
        links=(
            Link(
                to="edge-b",
                transport=Transport.VXLAN,
                cost=10,
                service_costs={"reports": 200},
                local="10.90.0.1",
                remote="10.90.0.2",
                port=4791,
                mtu=1400,
                probe=Probe(interval_ms=50, lost=5),
            ),
            Link(to="edge-b", name="lan", transport=Transport.DIRECT, device="eth1"),
        ),
        listeners=(
            Listener("backend", 8080),
            Listener("dns", 53, address="fd00::1", protocol=Protocol.UDP),
            Listener(
                "app",
                8081,
                services=(Share("app", 7), Share("app-new", 3)),
                policy=Policy.WEIGHTED,
                affinity=Affinity.CLIENT,
                affinity_timeout_s=600,
            ),
            Listener("app", 8082, services=(Share("app"),), policy=Policy.PRIORITY),
        ),
        connectors=(
            Connector(
                "backend",
                "backend-2",
                "127.0.0.1",
                9090,
                capacity=4,
                drain=True,
                health=Health(
                    HealthType.HTTP,
                    "/healthz",
                    2.0,
                    0.5,
                    3,
                    2,
                    host="shop.example:443",
                    tls=True,
                    tls_ca="/etc/ssl/shop.pem",
                    tls_server_name="shop.example",
                ),
            ),
            Connector("dns", "dns", "::1", 53, protocol=Protocol.UDP, health=Health(HealthType.SOCKET)),
        ),
        drain=True,
        overload=True,
        hold_time_s=30.0,
        control_port=7501,
        load_port=7502,
        metrics=Metrics("::1", 0),
        lan=Lan(("lan0", "docker0"), (62000, 63999), FlowTimes(5, 600, 60, 1, 30), LanFirewall.BYPASS),
        removed_sites=("edge-x",),
    )


def test_defaults_come_from_the_names() -> None:
    config = loads(MINIMAL, "x")
    assert config.overlay6 == str(names.overlay_address6("demo", "edge-a"))
    assert config.overlay4.startswith("100.")
    assert config.nat4.startswith("100.")
    assert config.nat4 != config.overlay4
    assert config.nat6 == str(names.nat_address6("demo", "edge-a"))
    assert config.overlay_cidr == str(names.overlay_network("demo"))
    both = f"overlay_cidr: {config.overlay_cidr}\noverlay_address: {config.overlay4}"
    assert config == loads(f"{MINIMAL}{both}", "x")


def test_a_file_that_names_an_address_and_no_range_is_of_the_time_when_that_was_all_of_the_shared_space() -> None:
    config = loads(MINIMAL + "overlay_address: 100.100.7.9", "x")
    assert config.overlay_cidr == "100.64.0.0/10"
    assert config.nat4 == str(names.nat_address(names.SHARED_SPACE, "demo", "edge-a"))


def test_no_network_s_range_is_where_resolvers_are() -> None:
    ranges = {names.overlay_network(f"network-{number}") for number in range(2000)}
    assert len(ranges) == 63
    assert all(one.prefixlen == 16 and one.subnet_of(names.SHARED_SPACE) for one in ranges)
    assert names.RESOLVERS not in ranges


def test_metrics_are_on_by_default() -> None:
    config = loads(MINIMAL, "x")
    assert config.metrics == Metrics("127.0.0.1", 9464)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: 1\na: 2\n", "f: line 2, column 1: the key 'a' is there twice; remove one"),
        ("b: {c: 1, c: 2}\n", "f: line 1, column 11: the key 'c' is there twice; remove one"),
        ("a: [", "f: line 2, column 1: did not find expected node content; correct the YAML there"),
        ("a: &x 3\nb: *x\n", "f: line 2, column 4: YAML aliases are not accepted here; write the value out"),
        ("a: &x [*x]\n", "f: line 1, column 8: YAML aliases are not accepted here; write the value out"),
        (
            "a: !!python/object:os.x {}",
            "f: line 1, column 4: YAML tags such as tag:yaml.org,2002:python/object:os.x are not accepted"
            " here; remove it",
        ),
        ("[" * 100, "f: line 1, column 17: nested deeper than 16; correct the brackets or indentation"),
        ("a: 1\n---\nb: 2\n", "f: line 2, column 1: but found another document; correct the YAML there"),
        ("a: 2026-99-99\n", "f: month must be in 1..12; correct the YAML there"),
        ("", "f: the file is empty; give keys and values, at least network and site"),
        ("- 1\n", "f: [1] is not a mapping; give keys and values, at least network and site"),
    ],
)
def test_refused_yaml(text: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as error:
        loads(text, "f")
    assert str(error.value) == sentence
    assert error.value.exit_code == ExitCode.BAD_CONFIG == 78


def test_nesting_without_end_is_refused() -> None:
    with pytest.raises(ConfigError, match="nest"):  # by whoever sees it first: newer parsers have a limit of their own
        loads("[" * 100_000, "f")


def test_quoted_scalars_are_no_tags() -> None:
    assert loads("'network': \"demo\"\nsite: 'edge-a'\n", "x").network == "demo"


def test_yaml_booleans_and_dates_are_caught_by_type() -> None:
    with pytest.raises(ConfigError) as error:
        loads("network: on\nsite: 2026-11-23\n", "x")
    assert [line.split("; ")[0] for line in str(error.value).splitlines()] == [
        "x: network: true is not a network name",
        "x: site: datetime.date(2026, 11, 23) is not a site name",
    ]


def test_a_number_of_any_length_is_a_sentence() -> None:
    with pytest.raises(ConfigError, match=r"^x: control_port: a very large number is not in 1\.\.65535"):
        loads(MINIMAL + "control_port: 0x" + "f" * 9000, "x")
    with pytest.raises(ConfigError, match="4300 digits"):
        loads(MINIMAL + "control_port: " + "9" * 9000, "x")


def test_size_limit(tmp_path: Path) -> None:
    path = tmp_path / "big.yaml"
    path.write_text(MINIMAL + "#" + "x" * SIZE_MAX)
    with pytest.raises(ConfigError, match=f"larger than {SIZE_MAX} bytes; give a smaller file"):
        load(str(path))
    with pytest.raises(ConfigError, match="larger than"):
        loads("#" + "x" * SIZE_MAX, "x")


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        load(str(tmp_path / "none.yaml"))
    assert str(error.value).endswith(
        "none.yaml: cannot be read (no such file or directory); give a file that this user may read"
    )
    with pytest.raises(ConfigError, match="is a directory"):
        load(str(tmp_path))
    with pytest.raises(ConfigError, match="not the name of a file"):
        load("a\0b")
    (tmp_path / "latin.yaml").write_bytes(b"network: caf\xe9\n")
    with pytest.raises(ConfigError, match="byte 12 is not UTF-8; save the file as UTF-8"):
        load(str(tmp_path / "latin.yaml"))


def test_byte_order_mark_is_fine(tmp_path: Path) -> None:
    (tmp_path / "bom.yaml").write_bytes(b"\xef\xbb\xbf" + MINIMAL.encode())
    assert load(str(tmp_path / "bom.yaml")).site == "edge-a"


def test_the_nat_address_is_another_than_the_overlay_address_also_where_their_hashes_meet() -> None:
    small = "overlay_cidr: 10.9.0.0/30\n"
    for site in "abcdefgh":
        config = loads(f"network: demo\nsite: {site}\n{small}", "x")
        assert {config.overlay4, config.nat4} == {"10.9.0.1", "10.9.0.2"}
