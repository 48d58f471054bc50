from __future__ import annotations

from pathlib import Path

import pytest

from skedge.loader import host_requirements


@pytest.fixture(autouse=True)
def lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loaders that run on this host just now hold another one."""
    (tmp_path / "vmlinux").touch()
    monkeypatch.setattr(host_requirements, "VMLINUX", str(tmp_path / "vmlinux"))


def test_headers_of_another_kernel_are_linked_and_taken_back(tmp_path: Path) -> None:
    sources, modules = tmp_path / "src", tmp_path / "lib" / "6.99.0"
    for release in ("6.1.0-9", "6.1.0-56"):
        for flavour in ("amd64", "common"):
            (sources / f"linux-headers-{release}-{flavour}" / "include").mkdir(parents=True)
    host_requirements.ensure_headers(modules, sources)
    assert (modules / "build").readlink().name == "linux-headers-6.1.0-56-amd64"
    assert (modules / "source").readlink().name == "linux-headers-6.1.0-56-common"
    host_requirements.ensure_headers(modules, sources)
    host_requirements.remove_headers(modules)
    assert not modules.exists()
    modules.mkdir()
    (modules / "build").symlink_to(sources / "linux-headers-6.1.0-9-amd64")  # not ours
    host_requirements.ensure_headers(modules, sources)
    host_requirements.remove_headers(modules)
    assert (modules / "build").is_symlink()


def test_headers_stay_while_another_loader_compiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of several loaders on one host unloads when it likes; none takes the headers from one that compiles."""
    modules = tmp_path / "modules"
    modules.mkdir()
    (modules / "build").symlink_to(tmp_path)
    (modules / ".skedge-headers").write_text("build\n")
    monkeypatch.setattr(host_requirements, "ensure_headers", lambda: None)
    with host_requirements.headers():
        host_requirements.remove_headers(modules)
        assert (modules / "build").is_symlink()
    host_requirements.remove_headers(modules)
    assert not (modules / "build").is_symlink()
