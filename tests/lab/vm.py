"""Runs a command in a VM with Debian's own 6.1 kernel: ``python -m tests.lab.vm [--timeout S] -- COMMAND …``.

A pass on this machine's kernel proves nothing for the other. The VM's disk is the lab's base image with the kernel's
modules; this checkout with its venv is at the same path inside, read-only below a layer in memory. The command's output
comes over the serial line, its exit code is ours. The command may write files to keep into ``/run/vm`` (see ``run``).
Emulated (TCG) where KVM runs no guest, which is tried once; ``VM_ACCEL`` (tcg, kvm) says it without trying.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import inspect
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.lab.image import base_image
from tests.lab.sh import CACHE, REPO, LabError, run, say, unmount

VM = CACHE / "vm"
BOOT_MODULES = ["virtio_pci", "virtio_blk", "ext4", "9p", "9pnet_virtio", "overlay", "virtio_rng"]
ONLY_FASTER = ["crc32c-intel.ko"]  # and not for every processor
DISK_SIZE = "4G"
KERNEL_WORDS = "console=ttyS0 quiet loglevel=3 panic=-1 mitigations=off net.ifnames=0"
# qemu64 has what Debian asks for; what `max` has beyond it costs a third more time to emulate.
ACCELERATORS = {
    "tcg": ("-accel", "tcg,thread=multi", "-cpu", "qemu64"),
    "kvm": ("-accel", "kvm", "-cpu", "host"),
}
KVM_TRIAL_S = 10
SHARE = "security_model=none,multidevs=remap"
TIMEOUT = 240

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

INIT = r"""
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 TERM=dumb
mount -t proc proc /proc; mount -t sysfs sys /sys
mount -t cgroup2 cgroup2 /sys/fs/cgroup; mount -t bpf bpf /sys/fs/bpf; mount -t tracefs trace /sys/kernel/tracing
ln -s /proc/self/fd /dev/fd; ln -s fd/0 /dev/stdin; ln -s fd/1 /dev/stdout; ln -s fd/2 /dev/stderr
mkdir -p /dev/pts /dev/shm /run/layer
mount -t devpts pts /dev/pts; mount -t tmpfs shm /dev/shm; mount -t tmpfs tmp /tmp; mount -t tmpfs layer /run/layer
mkdir -p {repo} /run/layer/lower /run/layer/upper /run/layer/work
mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144,cache=loose,ro repo /run/layer/lower
mount -t overlay -o lowerdir=/run/layer/lower,upperdir=/run/layer/upper,workdir=/run/layer/work overlay {repo}
hostname vm; ip link set lo up; ulimit -n 65536
cd {repo}
bash /run/vm/command.sh </dev/null
echo $? > /run/vm/exit
sync; echo o > /proc/sysrq-trigger; sleep 60
"""


def kernel() -> tuple[str, Path]:
    """Return release and directory of Debian's current kernel, fetched once with apt and extracted."""
    depends = run("apt-cache", "depends", "--important", "linux-image-amd64")
    packages = [w for w in depends.split() if w.startswith("linux-image-6")]
    if not packages:
        raise LabError("apt knows no linux-image-amd64: run `apt-get update`")
    release = packages[0].removeprefix("linux-image-")
    directory = VM / f"kernel-{release}"
    if not directory.is_dir():
        say(f"vm: fetching Debian's kernel {release}")
        with tempfile.TemporaryDirectory(dir=VM) as work:
            os.chmod(work, 0o755)
            subprocess.run(["apt-get", "-q", "download", packages[0]], cwd=work, check=True, stdout=sys.stderr)
            run("dpkg-deb", "-x", next(Path(work).glob("*.deb")), Path(work) / "root")
            run("depmod", "-b", Path(work) / "root", release)
            (Path(work) / "root").rename(directory)
    return release, directory


def initramfs(release: str, tree: Path) -> Path:
    """Return an initramfs that mounts the root disk and goes on there."""
    mark = hashlib.sha256(inspect.getsource(initramfs).encode() + INITRAMFS.encode()).hexdigest()[:8]
    target = VM / f"initrd-{release}-{mark}.cpio"
    if target.exists():
        return target
    with tempfile.TemporaryDirectory(dir=VM) as name:
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
                if line.startswith("insmod") and path.name not in (*order, *ONLY_FASTER):
                    shutil.copy(path, root / "modules")
                    order.append(path.name)
        (root / "modules/order").write_text(" ".join(order))
        (root / "init").write_text(INITRAMFS)
        (root / "init").chmod(0o755)
        with target.with_suffix(".new").open("wb") as out:
            names = "\n".join(str(p.relative_to(root)) for p in sorted(root.rglob("*"))).encode()
            subprocess.run(["cpio", "-o", "-H", "newc", "--quiet"], cwd=root, input=names, stdout=out, check=True)
        target.with_suffix(".new").rename(target)
    return target


def disk(release: str, tree: Path) -> Path:
    """Return the root disk: base image and kernel modules. It is only ever used as a snapshot."""
    base = base_image()
    target = VM / f"disk-{base.name}-{release}.img"
    if target.exists():
        return target
    say("vm: making the disk image (once)")
    merged = VM / "merged"
    unmount(merged)
    merged.mkdir(exist_ok=True)
    for old in VM.glob("disk-*"):
        old.unlink()
    # the modules are in lib/ of the package, and /lib is a link to usr/lib in the base image
    run("mount", "-t", "overlay", "overlay", "-o", f"ro,lowerdir={_usr_merged(release, tree)}:{base}", merged)
    try:
        new = target.with_suffix(".new")
        run("truncate", "-s", DISK_SIZE, new)
        run("mkfs.ext4", "-q", "-F", "-O", "^has_journal", "-d", merged, new)
        new.rename(target)
    finally:
        unmount(merged)
        merged.rmdir()
    return target


def _usr_merged(release: str, tree: Path) -> Path:
    merged = tree / "merged"
    if not merged.exists():
        (merged / "usr/lib/modules").mkdir(parents=True)
        shutil.copytree(tree / "lib/modules" / release, merged / "usr/lib/modules" / release, symlinks=True)
        headers = merged / "usr/lib/modules" / release
        for link, name in (("build", release), ("source", release.replace("-amd64", "-common"))):
            (headers / link).unlink(missing_ok=True)
            (headers / link).symlink_to(f"/usr/src/linux-headers-{name}")
    return merged


def prepare() -> tuple[Path, Path, Path]:
    """Return kernel, initramfs and disk, making what is missing."""
    VM.mkdir(parents=True, exist_ok=True)
    with (VM / "build.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        release, tree = kernel()
        accelerator()
        return tree / "boot" / f"vmlinuz-{release}", initramfs(release, tree), disk(release, tree)


def remove_partial() -> None:
    """Remove what interrupted runs and builds left."""
    unmount(VM / "merged")
    for left in [*VM.glob("run-*"), *VM.glob("tmp*"), VM / "merged"]:
        shutil.rmtree(left, ignore_errors=True)
    for left in VM.glob("*.new"):
        left.unlink()


def qemu_argv(files: tuple[Path, Path, Path], shared: Path) -> list[str]:
    """Return qemu's command line."""
    image, initrd, root = files
    return [
        *machine_argv(2048, 2), "-serial", "stdio", "-nic", "none",
        "-kernel", str(image), "-initrd", str(initrd), "-append", KERNEL_WORDS,
        "-drive", f"file={root},if=virtio,format=raw,snapshot=on",
        "-virtfs", f"local,path={REPO},mount_tag=repo,readonly=on,{SHARE}",
        "-virtfs", f"local,path={shared},mount_tag=run,{SHARE}",
    ]  # fmt: skip


def machine_argv(memory_mib: int, processors: int) -> list[str]:
    """Return the beginning of qemu's command line: the machine itself."""
    return [
        "qemu-system-x86_64", "-M", "q35", *ACCELERATORS[accelerator()], "-smp", str(processors),
        "-m", str(memory_mib), "-display", "none", "-monitor", "none", "-no-reboot", "-device", "virtio-rng-pci",
    ]  # fmt: skip


def accelerator() -> str:
    """Return kvm where a guest really runs with it, else tcg: a /dev/kvm that opens may still run nothing."""
    said = os.environ.get("VM_ACCEL", "")
    if said and said not in ACCELERATORS:
        raise LabError(f"VM_ACCEL={said}: it is one of {', '.join(ACCELERATORS)}; leave it empty to have it tried")
    if said or not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return said or "tcg"
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    known = VM / f"accel-{boot}"
    if not known.exists():
        found = "kvm" if _kvm_runs() else "tcg"
        say(f"vm: {'KVM runs guests here' if found == 'kvm' else 'KVM runs no guest here: emulating (slow)'}")
        for old in VM.glob("accel-*"):
            old.unlink(missing_ok=True)
        known.write_text(found)
    return known.read_text()


def _kvm_runs() -> bool:
    """Boot a guest that has no disk, which goes off at once."""
    release, tree = kernel()
    argv = [
        "qemu-system-x86_64", "-M", "q35", *ACCELERATORS["kvm"], "-m", "256", "-display", "none", "-monitor", "none",
        "-nic", "none", "-no-reboot", "-serial", "stdio", "-append", KERNEL_WORDS,
        "-kernel", f"{tree}/boot/vmlinuz-{release}", "-initrd", str(initramfs(release, tree)),
    ]  # fmt: skip
    with contextlib.suppress(subprocess.TimeoutExpired):
        done = subprocess.run(
            argv, capture_output=True, text=True, timeout=KVM_TRIAL_S, check=False, stdin=subprocess.DEVNULL
        )
        return "vm: no root disk" in done.stdout
    return False


def run_in_vm(command: str, *, timeout: float = TIMEOUT, keep: Path | None = None) -> int:
    """Run a shell command in a fresh VM; return its exit code, or 124 when the time is over.

    Args:
        command: run by bash as root, in this checkout's directory.
        timeout: seconds for all of it, boot included.
        keep: files that the command leaves in ``/run/vm/keep`` are copied here.
    """
    files = prepare()
    with tempfile.TemporaryDirectory(dir=VM, prefix="run-") as name:
        shared = Path(name)
        (shared / "keep").mkdir()
        (shared / "command.sh").write_text(command + "\n")
        (shared / "init.sh").write_text(INIT.format(repo=shlex.quote(str(REPO))))
        die_with_us = ["setpriv", "--pdeathsig", "KILL"]
        process = subprocess.Popen([*die_with_us, *qemu_argv(files, shared)], stdin=subprocess.DEVNULL)
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            say(f"vm: not done after {timeout:.0f} s")
            return 124
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        if keep is not None:
            shutil.copytree(shared / "keep", keep, dirs_exist_ok=True)
        said = shared / "exit"
        if not said.exists():
            raise LabError("the VM went off without an exit code: see its last words above")
        return int(said.read_text())


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line's command in a VM."""
    parser = argparse.ArgumentParser(prog="python -m tests.lab.vm", description=__doc__)
    parser.add_argument("--timeout", type=float, default=TIMEOUT)
    parser.add_argument("--keep", type=Path, help="directory for the files of /run/vm/keep")
    parser.add_argument("words", nargs="+", metavar="COMMAND")
    args = parser.parse_args(argv)
    try:
        return run_in_vm(" ".join(args.words), timeout=args.timeout, keep=args.keep)
    except LabError as error:
        print(f"vm: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
