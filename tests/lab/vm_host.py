"""One lab host that is a VM: a Debian with its own kernel under qemu, systemd as PID 1, udev and networkd.

Its disk is a layer over the VM image (``vm.disk``). Who it is comes as a directory of files, ``seed``, which its
initramfs lays over the disk at the first boot: no network is needed for that, and no cloud-init. qemu runs in the
switch's network namespace, where its taps are, and in a cgroup of the host's, so that it is found and killed as a
container is.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from pathlib import Path

from tests.lab import net, vm
from tests.lab.host import WORKLOADS, Host
from tests.lab.sh import LabError, run
from tests.lab.vm_kernel import Kernel, kernel_of

MEMORY_MIB = 1024
PROCESSORS = 1  # three emulated hosts on two processors are no faster with more
TAP = "tap,id={id},ifname={port},script=no,downscript=no"
MASKED = "e2scrub_reap.service"  # ten seconds at boot, for LVM
NETWORKD = ("multi-user.target.wants/systemd-networkd.service", "dbus-org.freedesktop.network1.service")


class VmHost(Host):
    """A VM's files and its process; every method may be called in any state."""

    @property
    def root(self) -> Path:
        """The files that it is given."""
        return self.directory / "seed"

    @property
    def kernel(self) -> Kernel:
        """Its suite's own kernel."""
        return kernel_of(self.plan.suite(self.name))

    @property
    def disk(self) -> Path:
        """What it changed, as a layer over the image."""
        return self.directory / "disk.qcow2"

    def mount(self, base: Path) -> None:
        """Make its disk (the VM image is of the same base), and the directories that `furnish` writes to."""
        image = vm.prepare(self.kernel)[2]
        for part in ("etc/ssh/sshd_config.d", "etc/systemd/network", "etc/systemd/system/multi-user.target.wants"):
            (self.root / part).mkdir(parents=True, exist_ok=True)
        (self.root / "root").mkdir(mode=0o700, exist_ok=True)
        if not self.disk.exists():
            new = self.disk.with_suffix(".new")
            run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", image, new)
            new.rename(self.disk)

    def furnish(self, public_key: str, host_key: Path) -> None:
        """Write the host's identity, and its devices' names and addresses."""
        super().furnish(public_key, host_key)
        system = self.root / "etc/systemd/system"
        for link in NETWORKD:
            with contextlib.suppress(FileExistsError):
                (system / link).symlink_to("/lib/systemd/system/systemd-networkd.service")
        with contextlib.suppress(FileExistsError):
            (system / MASKED).symlink_to("/dev/null")
        for device, mac, address in self._devices():
            match = f"[Match]\nMACAddress={mac}\n\n"
            at = self.root / "etc/systemd/network" / f"10-{device}"
            at.with_suffix(".link").write_text(f"{match}[Link]\nName={device}\n")
            at.with_suffix(".network").write_text(
                f"{match}[Network]\nAddress={address}\nLinkLocalAddressing=ipv6\nIPv6AcceptRA=no\n"
            )

    def _devices(self) -> list[tuple[str, str, str]]:
        """Return name, hardware address and address with prefix length of each device, in the order of `_ports`."""
        plan, name = self.plan, self.name
        own = ("host0", plan.mac(name), f"{plan.address(name)}/25")
        return [own, *(
            (s.device(name), plan.segment_mac(s, name), f"{plan.segment_address(s, name)}/30")
            for s in plan.segments_of(name)
        )]  # fmt: skip

    def boot_argv(self) -> list[str]:
        """Return the command line that boots it."""
        kernel, initrd, _ = vm.prepare(self.kernel)
        wires: list[str] = []
        for number, (port, (_, mac, _)) in enumerate(
            zip(net.ports(self.plan, self.name), self._devices(), strict=True)
        ):
            wires += ["-netdev", TAP.format(id=f"n{number}", port=port)]
            wires += ["-device", f"virtio-net-pci,netdev=n{number},mac={mac},romfile="]
        return [
            "nsenter", f"--net=/run/netns/{self.plan.switch}", f"--wd={self.directory}",
            *vm.machine_argv(MEMORY_MIB, PROCESSORS), "-name", f"{self.plan.tag}-{self.name}",
            "-serial", "stdio", "-qmp", "unix:qmp,server=on,wait=off",
            "-kernel", str(kernel), "-initrd", str(initrd), "-append", f"{vm.KERNEL_WORDS} lab=host",
            "-drive", f"file={self.disk},if=virtio,format=qcow2,cache=unsafe", *wires,
            "-virtfs", f"local,path={self.root},mount_tag=seed,readonly=on,{vm.SHARE}",
            "-virtfs", f"local,path={WORKLOADS},mount_tag=workloads,readonly=on,{vm.SHARE}",
        ]  # fmt: skip

    def power_off(self, timeout: float = 120) -> None:
        """Press its power button; if it does not go within the time, pull the plug."""
        if self.running():
            with contextlib.suppress(OSError):
                self._ask("system_powerdown")
            end = time.monotonic() + timeout
            while self.running() and time.monotonic() < end:
                time.sleep(0.2)
        self.kill()

    def _ask(self, command: str) -> None:
        """Give qemu one command."""
        directory = os.open(self.directory, os.O_PATH)  # a socket's path is 107 characters at most
        try:
            with socket.socket(socket.AF_UNIX) as made:
                made.settimeout(10)
                made.connect(f"/proc/self/fd/{directory}/qmp")
                with made.makefile("rw") as talk:
                    talk.readline()  # its greeting
                    for word in ("qmp_capabilities", command):
                        talk.write(json.dumps({"execute": word}) + "\n")
                        talk.flush()
                        talk.readline()
        finally:
            os.close(directory)

    def leader(self) -> int:
        """A VM's PID 1 is not a process of this machine."""
        raise LabError(f"{self.name} is a VM: its processes are not seen from outside; use ssh")
