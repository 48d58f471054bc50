# Copyright: the skedge authors
# SPDX-License-Identifier: Apache-2.0
"""What a keepalived watches: were that process stopped, its addresses would move to another host. PRIVATE to the
collection.

Pure. A process is watched by its name (``vrrp_track_process``), or by a script that has its name, or its unit's
(``killall -0 haproxy``, ``systemctl is-active haproxy``). One that connects to the port is answered by the listener.
"""

from __future__ import annotations

import re

PATH = "/etc/keepalived/keepalived.conf"
_BLOCK = re.compile(r"^[ \t]*(vrrp_script|vrrp_track_process)[ \t]+(\S+)\s*\{(.*?)\}[ \t]*$", re.MULTILINE | re.DOTALL)
_ASKS = re.compile(r"^[ \t]*(?:script|process)[ \t]+(.+)$", re.MULTILINE)
_NAMED = r"(?<![\w.-])%s(?=\.pid|\.sock|\.service|[^\w./-]|$)"


def bare(text, signs="#!"):
    """Return a text without its comments, by the signs that they begin with."""
    return "\n".join(re.sub(r"(^|\s)[%s].*" % signs, "", line) for line in text.splitlines())


def included(line):
    """Return the files that a line of the configuration includes, as a pattern; nothing for any other line."""
    words = line.split()
    return words[1].strip("\"'") if len(words) > 1 and re.fullmatch("include[a-z]?", words[0]) else ""


def watches(text):
    """Return what asks for a process, and what it asks: [(kind and name, words)]."""
    found = []
    for kind, name, body in _BLOCK.findall(bare(text)):
        words = " ".join(_ASKS.findall(body))
        if words:
            found.append(("%s %s" % (kind, name), words))
    return found


def problems(watched, holders):
    """Return a sentence for each program that is watched, and whose port a listener takes.

    ``watched`` are those of `watches`, with the texts of scripts; ``holders`` {a program's name, or its unit's: port}.
    """
    found = []
    for name, port in holders.items():
        asked = re.compile(_NAMED % re.escape(name))
        who = ", ".join(dict.fromkeys(who for who, words in watched if asked.search(words)))
        if who:
            found.append(
                "keepalived (%s) watches %s, whose port %d a listener takes: with that process gone, its virtual "
                "addresses move to another host; let it connect to the port instead (the listener answers there), or "
                "accept it with skedge_preflight_skip: [takeover]" % (who, name, port)
            )
    return found
