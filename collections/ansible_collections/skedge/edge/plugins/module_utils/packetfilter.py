# Copyright: the skedge authors
# SPDX-License-Identifier: Apache-2.0
"""Follows one packet through a host's packet filter, as far as rules can be read. PRIVATE to the collection.

Pure. Rules come from what ``nft -j list ruleset`` or ``iptables -S`` prints. A condition is met, is not met, or cannot
be known (a device that is not named, a match of an extension): then a rule that accepts may do so, and one that drops
is taken not to. So what is said to be dropped is dropped, and what cannot be known is left to the operator.
"""

from __future__ import annotations

import ipaddress
import shlex

DEPTH = 16
ALIASES = {"ipv6-icmp": "icmpv6", "17": "udp", "6": "tcp", "58": "icmpv6"}
LOOPBACK = "lo"
OTHER_DEVICE = "?"  # neither the loopback nor ours


class Packet:
    """The first packet of a connection: what a rule may compare. An address that is None is not known."""

    def __init__(self, hook, version, protocol, port, iif="", oif="", saddr=None, daddr=None, state="new"):
        self.hook = hook
        self.version = version
        self.protocol = protocol
        self.port = port
        self.iif = iif
        self.oif = oif
        self.state = state
        self.saddr = ipaddress.ip_address(saddr) if saddr else None
        self.daddr = ipaddress.ip_address(daddr) if daddr else None

    def has(self, kind, negated, values):
        """Return whether the packet is so: True, False, or None where that cannot be known."""
        answers = [self._is(kind, value) for value in values]
        found = True if True in answers else None if None in answers else False
        return found if found is None or not negated else not found

    def _is(self, kind, value):
        if kind in ("iif", "oif"):
            return _same_device(getattr(self, kind), str(value))
        if kind in ("saddr", "daddr"):
            return _in_network(getattr(self, kind), str(value))
        if kind == "protocol":
            return self.protocol == ALIASES.get(str(value), str(value))
        if kind == "version":
            return self.version == value
        if kind == "dport":
            return _in_ports(self.port, value)
        if kind == "state":
            return str(value).lower() == self.state
        if kind == "type":  # of the destination address
            return (str(value).lower() == "local") == (self.hook == "input") if _simple_type(value) else False
        return False if kind == "never" else None


def _simple_type(value):
    return str(value).lower() in ("local", "unicast")


def _same_device(device, pattern):
    wild = pattern.endswith(("*", "+"))
    stem = pattern[:-1] if wild else pattern
    if wild and not stem:
        return bool(device)
    if device.startswith("sk-"):
        if wild:
            return True if device.startswith(stem) else None if stem.startswith("sk-") else False
        return None if stem.startswith("sk-") else False
    if device == LOOPBACK:
        return pattern == LOOPBACK or (wild and device.startswith(stem))
    if not device or pattern == LOOPBACK or stem.startswith("sk-"):
        return False
    return None if device == OTHER_DEVICE else device == pattern or (wild and device.startswith(stem))


def _in_network(address, text):
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None  # a range or a named set
    if address is None:
        return True if network.prefixlen == 0 else None
    return address.version == network.version and address in network


def _in_ports(port, value):
    first, last = value if isinstance(value, tuple) else (value, value)
    try:
        first, last = int(first), int(last)
    except (TypeError, ValueError):
        return None
    return port is not None and first <= port <= last


class Rule:
    """Conditions, and what happens when all are met: a verdict, or another chain."""

    def __init__(self, conditions, verdict="", target="", goto=False):
        self.conditions = conditions
        self.verdict = verdict
        self.target = target
        self.goto = goto

    def met_by(self, packet):
        """Return whether the packet meets all conditions: True, False or None."""
        answers = [packet.has(*condition) for condition in self.conditions]
        return False if False in answers else None if None in answers else True


class Base:
    """A chain that the kernel calls; ``chains`` are all of its table, {name: rules}."""

    def __init__(self, hook, version, label, name, policy, chains):
        self.hook = hook
        self.version = version  # 4, 6, or 0 for both
        self.label = label
        self.name = name
        self.policy = policy
        self.chains = chains

    def drops(self, packet):
        """Return how the packet is certainly dropped, or nothing."""
        if packet.hook != self.hook or (self.version and self.version != packet.version):
            return ""
        doubts = []
        verdict, how = self._walk(self.name, packet, doubts, DEPTH)
        if not verdict and self.policy == "drop":
            verdict, how = "drop", "by its policy"
        return how if verdict == "drop" and not doubts else ""

    def _walk(self, name, packet, doubts, depth):
        """Return what becomes of the packet in a chain: accept, drop or nothing, and by which rule."""
        rules = self.chains.get(name, [])
        for number, rule in enumerate(rules, 1):
            met = rule.met_by(packet)
            if met is False:
                continue
            verdict, how = rule.verdict, self._where(name, number, len(rules))
            if rule.target and depth:
                verdict, how = self._walk(rule.target, packet, doubts, depth - 1)
            if met is None:
                if verdict == "accept":
                    doubts.append(how)
                continue
            if verdict == "return" or (rule.goto and not verdict):
                return "", ""
            if verdict:
                return verdict, how
        return "", ""

    def _where(self, name, number, count):
        if name == self.name:
            return "by its last rule" if number == count else "by its rule %d" % number
        return "by rule %d of chain %s" % (number, name)


# ---- nftables ------------------------------------------------------------------------------------------------------

FAMILIES = {"ip": 4, "ip6": 6, "inet": 0}
FIELDS = {"dport": "dport", "saddr": "saddr", "daddr": "daddr", "protocol": "protocol", "nexthdr": "protocol"}
METAS = {"iifname": "iif", "oifname": "oif", "iif": "iif", "oif": "oif", "l4proto": "protocol"}
PROTOCOLS = ("tcp", "udp", "udplite", "dccp", "sctp", "icmp", "icmpv6")


def from_nft(ruleset, skip=()):
    """Return the base chains of a ruleset; ``skip`` holds tables (family, name) that are read in another way."""
    items = ruleset.get("nftables", [])
    sets = {_place(i["set"], "name"): i["set"].get("elem", []) for i in items if "set" in i}
    tables = {}
    for rule in [item["rule"] for item in items if "rule" in item]:
        chains = tables.setdefault((rule["family"], rule["table"]), {})
        chains.setdefault(rule["chain"], []).extend(_nft_rules(rule, sets))
    return [
        Base(
            chain["hook"], FAMILIES[chain["family"]], "nftables chain %s %s %s" % _place(chain, "name"), chain["name"],
            chain.get("policy", "accept"), tables.get((chain["family"], chain["table"]), {}),
        )
        for chain in [item["chain"] for item in items if "chain" in item]
        if chain.get("type") == "filter" and chain["family"] in FAMILIES
        and (chain["family"], chain["table"]) not in skip
    ]  # fmt: skip


def tables_of_iptables(ruleset):
    """Return the tables that iptables made, whose rules nft cannot show in full: (family, name)."""
    chains = [item["chain"] for item in ruleset.get("nftables", []) if "chain" in item]
    return {(c["family"], c["table"]) for c in chains if c["table"] == "filter" and c["name"] in HOOKS}


def _place(item, last):
    return item["family"], item["table"], item[last]


def _nft_rules(rule, sets):
    """Return a rule, or one for each element of its verdict map."""
    conditions = []
    for part in rule.get("expr", []):
        if "match" in part:
            conditions += _nft_conditions(part["match"], rule, sets)
        elif "xt" in part or "limit" in part:
            conditions.append(("unknown", False, [""]))
        elif "vmap" in part:
            return _nft_map(part["vmap"], conditions, rule, sets)
        else:
            made = _nft_verdict(part, conditions)
            if made:
                return [made]
    return []


def _nft_verdict(part, conditions):
    for word, verdict in (("accept", "accept"), ("drop", "drop"), ("reject", "drop"), ("return", "return")):
        if word in part:
            return Rule(conditions, verdict)
    for word in ("jump", "goto"):
        if word in part:
            return Rule(conditions, target=part[word]["target"], goto=word == "goto")
    return None


def _nft_map(vmap, conditions, rule, sets):
    data = vmap.get("data")
    pairs = data.get("set", []) if isinstance(data, dict) else []  # a named map is not known
    made = []
    for key, verdict in pairs:
        match = {"op": "==", "left": vmap["key"], "right": key}
        made.append(_nft_verdict(verdict, conditions + _nft_conditions(match, rule, sets)))
    return [one for one in made if one]


def _nft_conditions(match, rule, sets):
    left, negated, right = match.get("left", {}), match.get("op") == "!=", match.get("right")
    values = _nft_values(right, rule, sets)
    if not isinstance(left, dict) or match.get("op") not in ("==", "!=", "in"):
        return [("unknown", False, [""])]
    if "payload" in left:
        protocol, field = left["payload"].get("protocol", ""), left["payload"].get("field", "")
        first = [("protocol", False, [protocol])] if protocol in PROTOCOLS else []
        if protocol in ("ip", "ip6"):
            first = [("version", False, [4 if protocol == "ip" else 6])]
        return [*first, (FIELDS.get(field, "unknown"), negated, values)]
    if "meta" in left:
        key = left["meta"].get("key", "")
        if key == "nfproto":
            return [("version", negated, [{"ipv4": 4, "ipv6": 6}.get(value) for value in values])]
        return [(METAS.get(key, "never" if key == "mark" else "unknown"), negated, values)]
    if "ct" in left:
        return [("state" if left["ct"].get("key") == "state" else "never", negated, values)]
    if "fib" in left and left["fib"].get("result") == "type" and "daddr" in left["fib"].get("flags", []):
        return [("type", negated, values)]
    return [("unknown", False, [""])]


def _nft_values(right, rule, sets):
    """Return the values on the right of a comparison, each a scalar, a network as text, or a pair of ports."""
    if isinstance(right, list):
        return [value for item in right for value in _nft_values(item, rule, sets)]
    if isinstance(right, dict):
        if "set" in right:
            return _nft_values(right["set"], rule, sets)
        if "elem" in right:
            return _nft_values(right["elem"].get("val"), rule, sets)
        if "prefix" in right:
            return ["%s/%s" % (right["prefix"]["addr"], right["prefix"]["len"])]
        if "range" in right:
            return [tuple(right["range"])]
        return [""]
    if isinstance(right, str) and right.startswith("@"):
        return _nft_values(sets.get((rule["family"], rule["table"], right[1:]), [""]), rule, sets)
    return [right]


# ---- iptables ------------------------------------------------------------------------------------------------------

HOOKS = {"INPUT": "input", "FORWARD": "forward", "OUTPUT": "output"}
OPTIONS = {
    "-i": "iif", "-o": "oif", "-s": "saddr", "-d": "daddr", "-p": "protocol", "--dport": "dport", "--dports": "dport",
    "--ctstate": "state", "--state": "state", "--dst-type": "type", "--mark": "never", "--ctstatus": "never",
}  # fmt: skip
VERDICTS = {"ACCEPT": "accept", "DROP": "drop", "REJECT": "drop", "RETURN": "return"}


def from_iptables(text, command, version):
    """Return the base chains of table filter, from what ``iptables -S`` prints; ``command`` is how they are called."""
    policies, chains = {}, {}
    for line in text.splitlines():
        words = shlex.split(line)
        if words[:1] == ["-P"]:
            policies[words[1]] = words[2].lower()
        elif words[:1] == ["-A"]:
            chains.setdefault(words[1], []).append(_iptables_rule(words[2:]))
    return [
        Base(HOOKS[name], version, "%s chain %s" % (command, name), name, policy, chains)
        for name, policy in policies.items()
        if name in HOOKS
    ]


def _iptables_rule(words):
    conditions, negated, place = [], False, 0
    while place < len(words):
        word = words[place]
        following = place + 1
        while following < len(words) and not words[following].startswith(("-", "!")):
            following += 1
        values = words[place + 1 : following]
        if word in ("-j", "-g"):
            target = values[0]
            verdict = VERDICTS.get(target, "")
            return Rule(conditions, verdict, "" if verdict else target, goto=word == "-g")
        if word in OPTIONS:
            conditions.append((OPTIONS[word], negated, _iptables_values(word, values[0])))
        elif word not in ("!", "-m", "--comment"):
            conditions.append(("unknown", False, [""]))
        negated = word == "!"
        place = following
    return Rule(conditions)


def _iptables_values(option, text):
    values = text.split(",")
    if option in ("--dport", "--dports"):
        return [tuple(value.split(":")) if ":" in value else value for value in values]
    return values
