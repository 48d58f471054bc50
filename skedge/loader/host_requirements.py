"""What the loader needs of the host before it can compile and attach: each lack is one sentence with the way out."""

from __future__ import annotations

import ctypes
import fcntl
import os
import platform
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from skedge.core.errors import HostError
from skedge.dataplane.bpf.btf import VMLINUX

BPFFS = "/sys/fs/bpf"
_BPFFS_MAGIC = 0xCAFE4A11
_LIBC = ctypes.CDLL(None, use_errno=True)
_MARKER = ".skedge-headers"


def check_root() -> None:
    """Raise HostError for any other user."""
    if os.geteuid() != 0:
        raise HostError("skedge-loader loads eBPF programs and must run as root: use sudo")


def check(cgroup: str | None) -> Path:
    """Check root, BTF and cgroup2; return the cgroup to attach to. Raises HostError."""
    check_root()
    if not os.path.exists(VMLINUX):
        raise HostError(
            f"{VMLINUX} is missing: this kernel ({platform.release()}) has no BTF (CONFIG_DEBUG_INFO_BTF);"
            " boot the distribution's standard kernel"
        )
    if cgroup is None:
        return cgroup2_root()
    if not all(os.path.exists(f"{cgroup}/cgroup.{name}") for name in ("procs", "controllers")):
        raise HostError(f"--cgroup {cgroup}: not a cgroup2 directory; see `findmnt -t cgroup2`")
    return Path(cgroup)


def cgroup2_root(mounts: str = "/proc/self/mounts") -> Path:
    """Return where cgroup2 is mounted (the first mount in the table). Raises HostError."""
    for line in Path(mounts).read_text(encoding="utf-8").splitlines():
        fields = line.split()
        if fields[2] == "cgroup2":
            return Path(re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), fields[1]))
    raise HostError(
        "cgroup2 is not mounted: boot with systemd.unified_cgroup_hierarchy=1, or mount it"
        " (mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified)"
    )


def on_bpffs(path: Path) -> bool:
    """Return whether an existing directory is on a bpf file system."""
    buffer = ctypes.create_string_buffer(256)
    if _LIBC.statfs(os.fsencode(path), buffer) != 0:
        return False
    return int.from_bytes(buffer.raw[:8], "little") & 0xFFFFFFFF == _BPFFS_MAGIC


def ensure_pin_dir(pin_dir: Path) -> None:
    """Create the pin directory, and mount bpffs at its usual place where nobody did. Raises HostError."""
    missing = Path(BPFFS) in pin_dir.parents and not on_bpffs(Path(BPFFS))
    if missing and _LIBC.mount(b"bpf", BPFFS.encode(), b"bpf", 0, None) != 0:
        code = ctypes.get_errno()
        raise HostError(f"{BPFFS}: no bpf file system and mounting one failed ({os.strerror(code)}); mount it")
    try:
        pin_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HostError(f"--pin-dir {pin_dir}: {error.strerror}") from error
    if not on_bpffs(pin_dir):
        raise HostError(f"--pin-dir {pin_dir}: not on a bpf file system; use a directory under {BPFFS}")
    _let_pass(pin_dir.parent)


def _let_pass(above: Path) -> None:
    """Let the controller, which is not root, pass: systemd mounts bpffs with mode 0700. Nobody can list it for that."""
    mode = stat.S_IMODE(above.stat().st_mode)
    if on_bpffs(above) and not mode & stat.S_IXOTH:
        above.chmod(mode | stat.S_IXOTH)


def ensure_headers(modules: Path | None = None, sources: Path = Path("/usr/src")) -> None:
    """Make the kernel headers findable for the compiler, from another Debian kernel where this one has none.

    Only UAPI types are used, so the headers' exact release does not matter; both links are needed.
    """
    modules = modules or Path("/lib/modules") / platform.release()
    if (modules / "build" / "include").exists() and _source_of(modules).exists():
        return
    found = sorted(sources.glob("linux-headers-*-common"), key=_release_key)
    for common in reversed(found):
        builds = sorted(sources.glob(common.name.removesuffix("-common") + "-*"))
        build = next((one for one in builds if one != common and (one / "include").exists()), None)
        if build is not None:
            _link(modules, {"build": build, "source": common})
            return
    raise HostError(
        f"no kernel headers: {modules}/build is missing and {sources} has none;"
        " install linux-headers-amd64 (Debian) or linux-headers-generic (Ubuntu)"
    )


def _source_of(modules: Path) -> Path:
    """Return the directory whose UAPI headers the compiler will take."""
    source = modules / "source" / "include"
    return source if (modules / "source").is_symlink() else modules / "build" / "include"


def _release_key(path: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", path.name)]


def _link(modules: Path, links: dict[str, Path]) -> None:
    """Make the links, and a marker that says which are ours (and whether the directory is)."""
    marker = modules / _MARKER
    made = [] if modules.exists() else ["."]
    try:
        modules.mkdir(parents=True, exist_ok=True)
        for name, target in links.items():
            path = modules / name
            if path.is_symlink() and not path.exists():
                path.unlink()  # dangling: its package is gone
            if not path.exists():
                path.symlink_to(target)
                made.append(name)
        before = marker.read_text(encoding="utf-8").split() if marker.exists() else []
        marker.write_text("\n".join(sorted({*before, *made})) + "\n", encoding="utf-8")
    except OSError as error:
        raise HostError(f"{modules}: cannot link the kernel headers ({error.strerror})") from error


@contextmanager
def headers() -> Iterator[None]:
    """Make the kernel headers findable, and keep them there for as long as the compiler needs them.

    Several loaders may run on one host, each for its own pin directory: what one of them unloads must not take the
    headers from another that compiles.
    """
    with _headers_lock(fcntl.LOCK_SH):
        ensure_headers()
        yield


@contextmanager
def _headers_lock(how: int) -> Iterator[None]:
    # A file that every host has on which programs can be loaded; one that only builds them may lack it.
    fd = os.open(VMLINUX if os.path.exists(VMLINUX) else "/usr/src", os.O_RDONLY)
    try:
        fcntl.flock(fd, how)
        yield
    finally:
        os.close(fd)


def headers_are_linked(modules: Path | None = None) -> bool:
    """Return whether there are links that `ensure_headers` made."""
    return ((modules or Path("/lib/modules") / platform.release()) / _MARKER).exists()


def remove_headers(modules: Path | None = None) -> None:
    """Remove the links that `ensure_headers` made, nothing else; none while another loader compiles."""
    with suppress(BlockingIOError, FileNotFoundError), _headers_lock(fcntl.LOCK_EX | fcntl.LOCK_NB):
        _remove_headers(modules or Path("/lib/modules") / platform.release())


def _remove_headers(modules: Path) -> None:
    marker = modules / _MARKER
    if not marker.exists():
        return
    made = marker.read_text(encoding="utf-8").split()
    marker.unlink()
    for name in ("build", "source"):
        if name in made and (modules / name).is_symlink():
            (modules / name).unlink()
    if "." in made and not any(modules.iterdir()):
        modules.rmdir()
