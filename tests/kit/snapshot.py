"""A judge from outside: everything in a network namespace and a pin directory, and how two moments differ.

    before = Snapshot.take("netns-name", pin_dir=pins)
    …
    changes = before.diff(Snapshot.take("netns-name", pin_dir=pins))
    assert {change.owner_hint for change in changes if not change.because} == {...}
    print(*changes, sep="\\n")

Nothing of the product is asked. What the kernel makes by itself is left out, by the rules of snapshot_objects.py.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.kit import snapshot_maps, snapshot_objects
from tests.kit.snapshot_objects import Key, Objects

RAW = Path(__file__).with_name("snapshot_raw.py")
TIMEOUT_S = 60.0
COPIED = {
    "net/ipv4/conf": ("forwarding",),
    "net/ipv6/conf": ("forwarding", "disable_ipv6", "force_forwarding"),
}


@dataclass(frozen=True)
class Change:
    """One object that is new (no ``before``), gone (no ``after``) or another one than it was.

    ``because`` names the object whose change made this one in the kernel: what lay on a device that went or
    was set down, or a device's sysctl that follows that of ``all``. A test of what was planned looks at those without.
    """

    kind: str
    key: tuple[Any, ...]
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None
    because: Key | None = None

    @property
    def owner_hint(self) -> Key:
        """Return the kind and what of the key names the object to people and plans; see snapshot_objects.HINTS."""
        return snapshot_objects.hint((self.kind, *self.key))

    def __str__(self) -> str:
        name = " ".join(map(str, (self.kind, *self.key)))
        tail = f" (because of {' '.join(map(str, self.because))})" if self.because else ""
        if self.before is None or self.after is None:
            word, fields = ("new", self.after) if self.before is None else ("gone", self.before)
            return f"{name}: {word}: {_fields(fields or {})}{tail}"
        names = sorted(self.before.keys() | self.after.keys())
        other = [(one, self.before.get(one), self.after.get(one)) for one in names]
        return f"{name}: {', '.join(f'{one} {a} => {b}' for one, a, b in other if a != b)}{tail}"


def _fields(fields: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in fields.items() if value not in ("", None, (), []))


@dataclass(frozen=True)
class Snapshot:
    """All objects of one moment: kind and key -> what each is."""

    objects: Objects

    @classmethod
    def take(cls, netns: str | int | Path, pin_dir: str | Path | None = None) -> Snapshot:
        """Return the objects of a namespace (its name, its path, or a process in it) and of a pin directory.

        Raises OSError, subprocess.CalledProcessError or AssertionError when anything cannot be read: no silent hole.
        """
        if isinstance(netns, int):
            where = f"/proc/{netns}/ns/net"
        else:
            where = str(netns) if "/" in str(netns) else f"/run/netns/{netns}"
        command = ["nsenter", f"--net={where}", sys.executable, "-I", str(RAW)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        assert done.returncode == 0, f"{where}: {done.stderr[-1000:]}"
        objects = snapshot_objects.objects(json.loads(done.stdout))
        if pin_dir is not None:
            objects |= {("pin", name): info for name, info in snapshot_maps.pins(Path(pin_dir))}
            objects |= {("map entry", *key): value for key, value in snapshot_maps.entries(Path(pin_dir))}
        return cls(objects)

    def diff(self, other: Snapshot) -> tuple[Change, ...]:
        """Return what is different in ``other``, a later moment, in the order of kinds and keys."""
        found = []
        for key in sorted(self.objects.keys() | other.objects.keys(), key=lambda one: [str(part) for part in one]):
            before, after = self.objects.get(key), other.objects.get(key)
            if before == after or self._comes_with_device(other, key):
                continue
            found.append(Change(key[0], key[1:], before, after, self._because(other, key)))
        return tuple(found)

    def _comes_with_device(self, other: Snapshot, key: Key) -> bool:
        """Tell whether a sysctl is there, or gone, only as its device is, with the value that new devices have."""
        if key[0] != "sysctl" or (key in self.objects) == (key in other.objects):
            return False
        if key in self.objects:
            return True
        return other.objects[key] == other.objects.get(("sysctl", _of(key[1], "default")))

    def _up(self, link: Key) -> bool:
        return bool(self.objects.get(link, {}).get("up"))

    def _because(self, other: Snapshot, key: Key) -> Key | None:
        """Return the device that went or was set down with what was on it, or the sysctl of all devices."""
        for device in snapshot_objects.devices(key, self.objects.get(key)) if key not in other.objects else ():
            link: Key = ("link", device)
            if self._up(link) and not other._up(link):
                return link
            if link in self.objects and link not in other.objects:
                return link
        if key[0] == "sysctl" and "/conf/" in key[1]:
            root: Key = ("sysctl", _of(key[1], "all"))
            folder, name = key[1].split("/conf/")[0] + "/conf", key[1].rpartition("/")[2]
            moved = self.objects.get(root) != other.objects.get(root)
            if key != root and name in COPIED[folder] and moved and other.objects.get(key) == other.objects.get(root):
                return root
        return None


def _of(path: str, device: str) -> str:
    """Return the path of the same sysctl of another device."""
    folder, _, rest = path.partition("/conf/")
    return f"{folder}/conf/{device}/{rest.rpartition('/')[2]}"
