"""The module that makes a host's keys, and installs what was signed for it."""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.skedge.edge.plugins.modules import host_identity, wireguard_key

pytestmark = pytest.mark.needs_root

FILES = {"site.crt": "mine\n", "ca.crt": "authority\n", "revoked.pem": "none\n"}


class Host:
    """One host's directory of keys; its controller's user is root."""

    def __init__(self, at: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.at = at / "skedge/identity"
        self.capsys = capsys

    def run(self, module: Any = host_identity, *, check: bool = False, **given: Any) -> dict[str, Any]:
        """Run a module in this process; return its result."""
        given |= {"directory": str(self.at), "python": sys.executable, "owner": "root", "_ansible_check_mode": check}
        with patch_module_args(given), pytest.raises(SystemExit):
            module.main()
        result: dict[str, Any] = json.loads(self.capsys.readouterr().out)
        return result

    def keys(self, *, check: bool = False) -> dict[str, Any]:
        return self.run(network="demo", site="edge-a", check=check)


@pytest.fixture
def host(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Host:
    return Host(tmp_path, capsys)


def test_both_keys_are_made_at_once_and_once(host: Host):
    told = host.keys(check=True)
    assert (told["changed"], told["csr"], told["keys"], host.at.exists()) == (True, "", [], False)
    first = host.keys()
    assert first["changed"]
    assert "BEGIN CERTIFICATE REQUEST" in first["csr"]
    assert [len(base64.b64decode(key)) for key in first["keys"]] == [32]
    assert {one.name: one.stat().st_mode & 0o777 for one in host.at.iterdir()} == {
        "site.key": 0o600,
        "wireguard.key": 0o640,
    }
    for check in (True, False):
        second = host.keys(check=check)
        assert (second["changed"], second["keys"], second["csr"]) == (False, first["keys"], first["csr"])


def test_a_host_from_before_wireguard_gets_only_that_key(host: Host):
    csr = host.keys()["csr"]
    (host.at / "wireguard.key").unlink()
    told = host.keys(check=True)
    assert (told["changed"], told["csr"], told["keys"]) == (True, csr, [])
    assert not (host.at / "wireguard.key").exists()
    made = host.keys()
    assert (made["csr"], len(made["keys"])) == (csr, 1)


def test_a_key_changes_by_way_of_the_next_one(host: Host):
    (old,) = host.keys()["keys"]
    both = host.run(wireguard_key, step="next")
    assert (both["changed"], both["keys"][0]) == (True, old)
    assert host.keys()["keys"] == both["keys"], "a deployment in between leaves both"
    swapped = host.run(wireguard_key, step="swap")
    assert (swapped["changed"], swapped["keys"]) == (True, both["keys"][1:])
    assert not host.run(wireguard_key, step="swap")["changed"]
    assert host.keys()["keys"] == swapped["keys"]


def test_a_damaged_key_is_named_and_not_quoted(host: Host):
    host.keys()
    (host.at / "site.key").write_text("secret\n")
    refused = host.keys()
    assert refused["msg"].startswith(f"a key of the host in {host.at} cannot be made or read (site.key: ")
    assert "secret" not in refused["msg"]


def test_certificates_that_are_as_they_should_be_are_told(host: Host):
    assert host.keys()["installed"] == {}
    assert host.run(files=FILES)["changed"]
    assert host.keys()["installed"] == FILES
    assert not host.run(files=FILES)["changed"]
    (host.at / "ca.crt").chmod(0o644)
    (host.at / "site.crt").write_text("another's\n")
    assert host.keys()["installed"] == {"site.crt": "another's\n", "revoked.pem": "none\n"}
