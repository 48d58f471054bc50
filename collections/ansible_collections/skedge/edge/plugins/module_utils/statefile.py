# Copyright: the skedge authors
# SPDX-License-Identifier: Apache-2.0
"""Files that a deployment keeps on the host: written whole or not at all, with modes that no umask changes.
PRIVATE to the collection.
"""

from __future__ import annotations

import json
import os

UMASK = 0o022  # what the modules set for themselves: that of a login must not decide who may read what they make


def read_text(path):
    """Return a file's text, or None."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except OSError:
        return None


def read_record(path):
    """Return the JSON object in a file, {} where there is none; None when the file holds something else."""
    text = read_text(path)
    if text is None:
        return {}
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def said(path, what):
    """Return the sentence about a record that cannot be read; ``what`` says what is done about it."""
    return "%s was cut off or is damaged; %s" % (path, what)


def make_directory(path, mode=0o755):
    """Make a directory with this mode, and those above it with 0755; return whether that changed anything."""
    if os.path.isdir(path):
        return False
    parent = os.path.dirname(path)
    if parent != path:
        make_directory(parent)
    os.mkdir(path)
    os.chmod(path, mode)
    return True


def write_text(path, text, mode, directory_mode=0o755):
    """Replace a file in one step, also over a power cut, making its directory."""
    make_directory(os.path.dirname(path), directory_mode)
    with os.fdopen(os.open(path + ".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        os.fchmod(file.fileno(), mode)
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(path + ".new", path)


def write_record(path, record):
    """Write a JSON object that only root reads."""
    write_text(path, json.dumps(record, indent=1) + "\n", 0o600, directory_mode=0o700)


def remove(path):
    """Remove a file that may be gone already."""
    if os.path.lexists(path):
        os.unlink(path)


def remove_if_empty(*directories):
    """Remove these directories as far as nothing is in them."""
    for directory in directories:
        if os.path.isdir(directory) and not os.listdir(directory):
            os.rmdir(directory)


def hidden(paths):
    """Return which of these files and directories not everybody can read, or run where the owner can."""
    there = [path for path in paths if os.path.exists(path)]
    return [path for path in there if os.stat(path).st_mode & _needed(path) != _needed(path)]


def show(paths):
    """Add the permissions that `hidden` asks for."""
    for path in paths:
        os.chmod(path, os.stat(path).st_mode & 0o7777 | _needed(path))


def _needed(path):
    return 0o755 if os.path.isdir(path) or os.stat(path).st_mode & 0o100 else 0o644
