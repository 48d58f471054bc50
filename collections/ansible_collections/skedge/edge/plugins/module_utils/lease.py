# Copyright: the skedge authors
# SPDX-License-Identifier: Apache-2.0
"""The mark of a deployment that is under way: one file, on each host and beside the authority.

It says who deploys, since when and until when it holds, in seconds since boot: no step of a clock makes it stale.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time


@contextlib.contextmanager
def _locked(path, flags=0):
    """Hold the file open and locked, so that reading and writing it are one step. Raises OSError."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | flags, 0o600)
        with os.fdopen(descriptor, "r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if _is_at(file, path):
                yield file
                return


def _is_at(file, path):
    """Tell whether the file has its name still: it may have been given back between open and lock."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except OSError:
        return False


def _read(file):
    """Return what a lease says; a file that was cut off, or is empty, says nothing."""
    try:
        found = json.load(file)
    except ValueError:
        return {}
    return found if isinstance(found, dict) and {"id", "who", "since", "until"} <= set(found) else {}


def boot_time():
    """Return the seconds since the machine was started."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def take(path, owner, lasts_s, over=(), now=None):
    """Take the lease, or prolong an own one; return who holds it when it is somebody else's, else nothing.

    ``owner`` has C(id) and C(who). A lease whose id is in ``over``, one that has ended, and one of an earlier boot are
    free.
    """
    now = boot_time() if now is None else now
    with _locked(path, os.O_CREAT) as file:
        held = _read(file)
        mine = held.get("id") == owner["id"]
        if held and not mine and held["since"] <= now < held["until"] and held["id"] not in over:
            return dict(held, for_s=int(now - held["since"]), left_s=int(held["until"] - now) + 1)
        since = held["since"] if mine and held["since"] <= now else now
        file.seek(0)
        file.truncate()
        json.dump({"id": owner["id"], "who": owner["who"], "since": since, "until": now + lasts_s}, file)
    return {}


def release(path, owner):
    """Give the lease back, if it is the owner's."""
    try:
        with _locked(path) as file:
            if _read(file).get("id") == owner["id"]:
                os.unlink(path)
    except FileNotFoundError:
        pass
