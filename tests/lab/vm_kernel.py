"""The kernels of the VM labs: Debian's own, each fetched once from its suite, with an initramfs for it.

A kernel runs below the userland that it comes with, or below an older one, as on a host that took it from backports or
kept its old one. Packages are fetched with apt and an apt root of their own, made from this machine's sources with the
suite's name: signatures are checked, and this machine's apt is not touched.
"""

from __future__ import annotations

import hashlib
import inspect
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.lab.image import DEFAULT_SUITE, base_image, copy_apt_sources
from tests.lab.sh import CACHE, LabError, run, say

VM = CACHE / "vm"
BOOT_MODULES = ["virtio_pci", "virtio_blk", "ext4", "9p", "9pnet_virtio", "overlay", "virtio_rng"]
ONLY_FASTER = ["crc32c-intel.ko"]  # and not for every processor

INITRAMFS = r"""#!/bin/busybox sh
export PATH=/bin
mount -t devtmpfs dev /dev; mount -t proc proc /proc; mount -t sysfs sys /sys
for module in $(cat /modules/order); do insmod /modules/$module; done
mount -t ext4 /dev/vda /root || { echo "vm: no root disk"; poweroff -f; }
share="mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144"
case " $(cat /proc/cmdline) " in
*" lab=host "*)  # a host of a VM lab: who it is, once; then all of Debian
    cd /root/etc/systemd/system
    if mkdir /seed && $share,ro seed /seed && [ -e systemd-udevd.service ]; then
        cp -a /seed/. /root/ && rm -f systemd-udevd.service systemd-udev-trigger.service
    fi
    cd /; umount /seed
    mkdir -p /root/opt/lab; $share,ro,cache=loose workloads /root/opt/lab
    umount /proc /sys; mount --move /dev /root/dev
    exec switch_root /root /sbin/init ;;
esac
mkdir -p /root/run/vm
$share run /root/run/vm
umount /proc /sys
mount --move /dev /root/dev
exec switch_root /root /bin/bash /run/vm/init.sh
"""


@dataclass(frozen=True)
class Kernel:
    """A kernel that VMs can have: the suite whose it is, and the suite of the userland above it."""

    name: str
    suite: str
    userland: str

    @property
    def own(self) -> bool:
        """Tell whether the userland is of the kernel's own suite, and hence has its very headers."""
        return self.suite == self.userland


KERNELS = {
    kernel.name: kernel
    for kernel in (
        Kernel("6.1", "bookworm", "bookworm"),
        Kernel("6.12", "trixie", "trixie"),
        Kernel("backports", "trixie-backports", "trixie"),
        Kernel("5.10", "bullseye", "bookworm"),
    )
}
DEFAULT = KERNELS["6.1"]


def scratch(prefix: str = "tmp") -> tempfile.TemporaryDirectory[str]:
    """Return a temporary directory beside what is kept, also where nothing was ever kept: what is ready is renamed."""
    VM.mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryDirectory(dir=VM, prefix=prefix)


def kernel_named(name: str) -> Kernel:
    """Return the kernel of that name. Raises LabError."""
    if name not in KERNELS:
        raise LabError(f"there is no kernel {name}: {', '.join(KERNELS)}")
    return KERNELS[name]


def kernel_of(suite: str = DEFAULT_SUITE) -> Kernel:
    """Return the kernel that hosts of a suite have."""
    return next(kernel for kernel in KERNELS.values() if kernel.own and kernel.userland == suite)


def fetched(kernel: Kernel) -> tuple[str, Path]:
    """Return a kernel's release and the directory with its files, fetching its package when that is not there."""
    record = VM / f"{kernel.name}.release"
    release = _release_of_headers(kernel) if kernel.own else record.read_text() if record.exists() else ""
    directory = VM / f"kernel-{release}"
    if release and directory.is_dir():
        return release, directory
    with scratch() as name:
        work = Path(name)
        os.chmod(work, 0o755)
        apt = _apt_root(kernel.suite, work)
        release = release or _newest(kernel, apt)
        say(f"vm: fetching Debian's kernel {release} of {kernel.suite}")
        subprocess.run(["apt-get", "-q", *apt, "download", *_packages(release, apt)], cwd=work, check=True, stdout=2)
        for package in work.glob("*.deb"):
            run("dpkg-deb", "-x", package, work / "root")
        if not (work / "root/lib").exists():
            (work / "root/lib").symlink_to("usr/lib")  # its package is of a merged /usr
        image = work / "root/lib/modules" / release / "vmlinuz"
        if image.exists():  # newer packages have it there, and their scripts copy it
            (work / "root/boot").mkdir(exist_ok=True)
            image.rename(work / "root/boot" / f"vmlinuz-{release}")
        run("depmod", "-b", work / "root", release)
        directory = VM / f"kernel-{release}"
        if not directory.exists():  # the same may be in two suites
            (work / "root").rename(directory)
    record.write_text(release)
    return release, directory


def _release_of_headers(kernel: Kernel) -> str:
    """Return the release whose headers the userland has."""
    trees = sorted((base_image(kernel.userland) / "usr/src").glob("linux-headers-*-amd64"))
    if not trees:
        raise LabError(f"the base image of {kernel.userland} has no kernel headers")
    return trees[-1].name.removeprefix("linux-headers-")


def _apt_root(suite: str, work: Path) -> list[str]:
    """Return apt's options for one suite alone, with its lists fetched."""
    for part in ("etc/apt", "state/lists/partial", "cache/archives/partial"):
        (work / "apt" / part).mkdir(parents=True)
    (work / "apt/status").touch()
    base = suite.removesuffix("-backports")
    copy_apt_sources(base, work / "apt")
    if suite != base:
        for path in (p for p in (work / "apt/etc/apt").rglob("*") if p.suffix in (".list", ".sources")):
            path.write_text(with_backports(path.read_text(), base))
    words = {
        "Dir::Etc::sourcelist": "etc/apt/sources.list", "Dir::Etc::sourceparts": "etc/apt/sources.list.d",
        "Dir::State": "state", "Dir::State::status": "status", "Dir::Cache": "cache",
    }  # fmt: skip
    options = [f"-o{key}={work / 'apt' / value}" for key, value in words.items()]
    if suite != base:
        options.append(f"-oAPT::Default-Release={suite}")
    subprocess.run(["apt-get", "-q", *options, "update"], check=True, stdout=2)
    return options


def with_backports(sources: str, suite: str) -> str:
    """Return apt sources of either form (one line each, or stanzas) with the suite's backports beside the suite."""
    lines: list[str] = []
    for line in sources.splitlines():
        words = line.split()
        if words[:1] == ["deb"] and suite in words:
            lines.append(line.replace(f" {suite} ", f" {suite}-backports "))
        stanza = words[:1] == ["Suites:"] and suite in words
        lines.append(f"{line} {suite}-backports" if stanza else line)
    return "".join(f"{line}\n" for line in lines)


def _newest(kernel: Kernel, apt: list[str]) -> str:
    """Return the release that the suite's package of the current kernel asks for."""
    words = run("apt-cache", *apt, "show", "--no-all-versions", "linux-image-amd64").replace(",", " ").split()
    found = [word for word in words if word.startswith("linux-image-") and word[12].isdigit()]
    if not found:
        raise LabError(f"apt knows no linux-image-amd64 of {kernel.suite}")
    return found[0].removeprefix("linux-image-")


def _packages(release: str, apt: list[str]) -> list[str]:
    """Return the packages of one kernel: one, or of newer ones one for each part."""
    words = run("apt-cache", *apt, "depends", "--important", f"linux-image-{release}").split()
    parts = [f"linux-{part}-{release}" for part in ("base", "binary", "modules")]
    return [part for part in parts if part in words] or [f"linux-image-{release}"]


def initramfs(release: str, tree: Path) -> Path:
    """Return an initramfs that mounts the root disk and goes on there."""
    mark = hashlib.sha256(inspect.getsource(initramfs).encode() + INITRAMFS.encode()).hexdigest()[:8]
    target = VM / f"initrd-{release}-{mark}.cpio"
    if target.exists():
        return target
    with scratch() as name:
        root = Path(name)
        for part in ("bin", "dev", "proc", "sys", "root", "modules"):
            (root / part).mkdir()
        shutil.copy("/bin/busybox", root / "bin/busybox")
        for applet in ("mount", "umount", "cat", "cp", "rm", "insmod", "mkdir", "poweroff", "switch_root", "["):
            (root / "bin" / applet).symlink_to("busybox")
        order: list[str] = []
        for module in BOOT_MODULES:
            for line in run("modprobe", "-d", tree, "-S", release, "--show-depends", module).splitlines():
                path = Path(line.split()[1])
                if line.startswith("insmod") and path.name.removesuffix(".xz") not in (*order, *ONLY_FASTER):
                    order.append(_unpacked(path, root / "modules"))
        (root / "modules/order").write_text(" ".join(order))
        (root / "init").write_text(INITRAMFS)
        (root / "init").chmod(0o755)
        with target.with_suffix(".new").open("wb") as out:
            names = "\n".join(str(p.relative_to(root)) for p in sorted(root.rglob("*"))).encode()
            subprocess.run(["cpio", "-o", "-H", "newc", "--quiet"], cwd=root, input=names, stdout=out, check=True)
        target.with_suffix(".new").rename(target)
    return target


def _unpacked(module: Path, directory: Path) -> str:
    """Copy a module, unpacked where its package has it packed (busybox loads no packed one); return its name."""
    if module.suffix != ".xz":
        shutil.copy(module, directory)
        return module.name
    with (directory / module.stem).open("wb") as out:
        subprocess.run(["xz", "-dc", module], check=True, stdout=out)
    return module.stem
