"""Which kernels and suites the labs have, and what is tested on each."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.lab import everything, image, vm_kernel, vm_tests
from tests.lab.sh import REPO, LabError, mounted
from tests.lab.topology import Plan, load_topology

STANZA = "Types: deb\nURIs: https://mirror.invalid/debian\nSuites: trixie trixie-updates\nComponents: main\n"
SECURITY = "Types: deb\nURIs: https://mirror.invalid/debian-security\nSuites: trixie-security\n"
LINES = (
    "deb [arch=amd64] https://mirror.invalid/debian trixie main\ndeb https://mirror.invalid/s trixie-security main\n"
)


def test_backports_are_beside_the_suite_in_both_forms_of_sources() -> None:
    assert "Suites: trixie trixie-updates trixie-backports\n" in vm_kernel.with_backports(STANZA, "trixie")
    assert vm_kernel.with_backports(SECURITY, "trixie") == SECURITY
    first, *same = vm_kernel.with_backports(LINES, "trixie").splitlines(keepends=True)
    assert first == "deb [arch=amd64] https://mirror.invalid/debian trixie-backports main\n"
    assert "".join(same) == LINES


def test_another_suite_has_this_machines_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = image.own_suite()
    image.copy_apt_sources("sid", tmp_path)
    text = "".join(path.read_text() for path in [*tmp_path.rglob("*.list"), *tmp_path.rglob("*.sources")])
    assert "sid" in text
    assert own not in text


@pytest.mark.parametrize("kernel", vm_kernel.KERNELS.values(), ids=lambda kernel: kernel.name)
def test_every_kernel_has_a_userland_that_there_is_an_image_of(kernel: vm_kernel.Kernel) -> None:
    assert kernel.userland in image.SUITES
    assert vm_kernel.kernel_named(kernel.name) is kernel


def test_hosts_have_the_kernel_of_their_suite() -> None:
    assert [vm_kernel.kernel_of(suite).name for suite in image.SUITES] == ["6.1", "6.12"]
    with pytest.raises(LabError, match=r"there is no kernel 2\.6: 6\.1, 6\.12, backports, 5\.10"):
        vm_kernel.kernel_named("2.6")


@pytest.mark.parametrize(
    ("said", "suites"), [("", ("bookworm",)), ("trixie", ("trixie",)), ("bookworm,trixie", ("bookworm", "trixie"))]
)
def test_suites_are_given_to_the_hosts_in_turn(said: str, suites: tuple[str, ...], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SUITE", said)
    plan = Plan("t", load_topology("line"), 1, image.wanted_suites())
    assert [plan.suite(host) for host in plan.topology.hosts] == [suites[i % len(suites)] for i in range(3)]


@pytest.mark.parametrize("said", ["buster", "trixie,", "bookworm trixie"])
def test_a_suite_without_an_image_is_named(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUITE", said)
    with pytest.raises(LabError, match=f"^SUITE={said}: .* is none of bookworm, trixie$"):
        image.wanted_suites()


def test_each_list_of_tests_is_there_and_short_and_rest_are_all_without_overlap() -> None:
    for test in {*vm_tests.SHORT, *vm_tests.REST, *vm_tests.COMPILES_OFTEN, *vm_tests.WITH_PROGRAMS}:
        path, _, name = test.partition("::")
        assert (REPO / path).exists(), path
        assert not name or f"def {name}(" in (REPO / path).read_text(), test
    assert set(vm_tests.arguments_of(["rest"])) >= {f"--deselect={test}" for test in vm_tests.SHORT}
    assert not {*vm_tests.SHORT} & {*vm_tests.REST}


def test_words_after_the_list_are_the_report_and_pytests_own() -> None:
    arguments = vm_tests.arguments_of(["old", "/x/a.xml", "--reruns", "1"])
    assert arguments[-4:] == ["--junitxml=/x/a.xml", "--reruns", "1", vm_tests.IPVS]
    assert vm_tests.arguments_of([])[-1] == vm_tests.REST[-1]


def test_every_run_has_debian_12s_and_13s_kernel_and_others_are_asked_for() -> None:
    stages = {stage.name: stage for stage in everything.stages()}
    assert len(stages) == len(everything.stages())
    kernels = {
        name: stage.argv[stage.argv.index("--kernel") + 1] for name, stage in stages.items() if name[:3] == "vm-"
    }
    assert sorted(kernel for name, kernel in kernels.items() if not stages[name].asked) == ["6.1", "6.12"]
    assert set(kernels.values()) == set(vm_kernel.KERNELS)
    assert all(f"/run/vm/keep/{name}.xml" in stages[name].argv for name in kernels), "where the closing lines look"


def test_what_tests_load_is_compiled_before_any_stage_that_loads_it() -> None:
    """In a VM nothing can be fetched for it, and a test's time is not for it."""
    order = [stage.name for stage in everything.stages()]
    assert order.index("bytecode") < min(order.index(name) for name in ("integration", *everything.VM_STAGES))


def test_there_is_a_place_for_what_is_made_where_nothing_was_ever_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vm_kernel, "VM", tmp_path / "new/vm")
    with vm_kernel.scratch() as made:
        assert Path(made).parent == tmp_path / "new/vm"


def test_a_mount_below_a_linked_directory_is_seen(tmp_path: Path) -> None:
    where = next(line.split()[1] for line in Path("/proc/mounts").read_text().splitlines() if " /proc " in line)
    (tmp_path / "linked").symlink_to(os.path.dirname(where))
    assert mounted(tmp_path / "linked" / "proc")
    assert not mounted(tmp_path)
