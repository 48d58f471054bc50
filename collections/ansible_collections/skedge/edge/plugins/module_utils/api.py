# Copyright: the skedge authors
# SPDX-License-Identifier: Apache-2.0
"""Client of the controller's local API: one JSON line there, one back. PRIVATE to the collection."""

from __future__ import annotations

import json
import socket

LINE_MAX = 64 * 1024 * 1024
VERSION = 1


class ApiError(Exception):
    """The controller could not be asked, or refused; the text is one sentence."""


def ask(path, request, timeout):
    """Return the controller's answer, a dict. Raises ApiError."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
            stream.settimeout(timeout)
            stream.connect(path)
            stream.sendall(json.dumps(request).encode() + b"\n")
            line = _read_line(stream)
    except (FileNotFoundError, ConnectionRefusedError):
        raise ApiError("no controller listens on %s; look at: systemctl status skedge" % path) from None
    except PermissionError:
        raise ApiError("%s may only be asked by root and group skedge; set become: true" % path) from None
    except OSError as error:
        raise ApiError(
            "the controller on %s did not answer in %g s (%s); look at: journalctl -u skedge" % (path, timeout, error)
        ) from None
    return _decode(line, path)


def _read_line(stream):
    data = bytearray()
    while not data.endswith(b"\n"):
        part = stream.recv(65536)
        if not part or len(data) > LINE_MAX:
            break
        data += part
    return bytes(data)


def _decode(line, path):
    try:
        answer = json.loads(line)
    except ValueError:
        raise ApiError(
            "the controller on %s did not answer with a JSON line; look at: journalctl -u skedge" % path
        ) from None
    if not isinstance(answer, dict) or answer.get("version", VERSION) != VERSION:
        raise ApiError("the controller on %s speaks another version of the API; deploy the host again" % path)
    if answer.get("error"):
        raise ApiError(str(answer["error"]))
    return answer
