"""Runs a command in a VM with a kernel of Debian's: ``python -m tests.lab.vm [--kernel K] [--timeout S] -- COMMAND …``.

A pass on this machine's kernel proves nothing for the others. The VM's disk is the lab's base image of the kernel's
userland with the kernel's modules; this checkout is at the same path inside, read-only below a layer in memory, with
its venv, or the disk's where the userland's Python is another. The command's output comes over the serial line, its
exit code is ours. The command may write files to keep into ``/run/vm`` (see ``run``).
Emulated (TCG) where KVM runs no guest, which is tried once; ``VM_ACCEL`` (tcg, kvm) says it without trying.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.lab.sh import REPO, LabError, say, unmount
from tests.lab.vm_image import disk
from tests.lab.vm_kernel import DEFAULT, KERNELS, VM, Kernel, fetched, initramfs, kernel_named, scratch

KERNEL_WORDS = "console=ttyS0 quiet loglevel=3 panic=-1 mitigations=off net.ifnames=0"
# qemu64 has what Debian asks for; what `max` has beyond it costs a third more time to emulate.
ACCELERATORS = {
    "tcg": ("-accel", "tcg,thread=multi", "-cpu", "qemu64"),
    "kvm": ("-accel", "kvm", "-cpu", "host"),
}
KVM_TRIAL_S = 10
SHARE = "security_model=none,multidevs=remap"
TIMEOUT = 240

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
if [ -d /opt/venv ]; then mount --bind /opt/venv {repo}/.venv; export PYTHONPATH={repo}; fi
hostname vm; ip link set lo up; ulimit -n 65536
cd {repo}
bash /run/vm/command.sh </dev/null
echo $? > /run/vm/exit
sync; echo o > /proc/sysrq-trigger; sleep 60
"""


def prepare(kernel: Kernel = DEFAULT) -> tuple[Path, Path, Path]:
    """Return kernel image, initramfs and disk, making what is missing."""
    VM.mkdir(parents=True, exist_ok=True)
    with (VM / "build.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        release, tree = fetched(kernel)
        accelerator()
        return tree / "boot" / f"vmlinuz-{release}", initramfs(release, tree), disk(kernel, release, tree)


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
    release, tree = fetched(DEFAULT)
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


def run_in_vm(command: str, *, kernel: Kernel = DEFAULT, timeout: float = TIMEOUT, keep: Path | None = None) -> int:
    """Run a shell command in a fresh VM; return its exit code, or 124 when the time is over.

    Args:
        command: run by bash as root, in this checkout's directory.
        kernel: what boots, with its userland.
        timeout: seconds for all of it, boot included.
        keep: files that the command leaves in ``/run/vm/keep`` are copied here.
    """
    files = prepare(kernel)
    with scratch("run-") as name:
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
    parser.add_argument("--kernel", default=DEFAULT.name, help=f"one of {', '.join(KERNELS)}")
    parser.add_argument("--timeout", type=float, default=TIMEOUT)
    parser.add_argument("--keep", type=Path, help="directory for the files of /run/vm/keep")
    parser.add_argument("words", nargs="+", metavar="COMMAND")
    args = parser.parse_args(argv)
    try:
        return run_in_vm(" ".join(args.words), kernel=kernel_named(args.kernel), timeout=args.timeout, keep=args.keep)
    except LabError as error:
        print(f"vm: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
