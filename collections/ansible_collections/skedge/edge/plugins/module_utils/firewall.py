# Copyright: the skedge authors
# SPDX-License-Identifier: Apache-2.0
"""Finds rules of the host's firewall that would drop link or forwarded traffic. PRIVATE to the collection.

Pure: takes what ``nft -j list ruleset`` and ``iptables-legacy -S`` print. It looks for a base chain that drops by
its policy or by a last rule without conditions, and for a rule in it, or in a chain that it jumps to, that lets our
traffic pass. Cleverer rulesets are not understood: then the operator skips the check by name.
"""

from __future__ import annotations

import re

DEVICES = "sk-"
FAMILIES = ("ip", "ip6", "inet")


def nft_problems(ruleset, tunnel_ports):
    """Return a sentence for each nftables base chain that drops what links need."""
    items = ruleset.get("nftables", [])
    chains = [item["chain"] for item in items if "chain" in item]
    rules = {}
    for item in items:
        if "rule" in item:
            rule = item["rule"]
            rules.setdefault((rule["family"], rule["table"], rule["chain"]), []).append(rule.get("expr", []))
    problems = []
    for chain in chains:
        key = (chain["family"], chain["table"], chain["name"])
        if chain.get("hook") not in ("forward", "input") or chain["family"] not in FAMILIES:
            continue
        own = rules.get(key, [])
        how = _drops(chain, own)
        if how:
            problems += _missing(chain, key, how, rules, tunnel_ports)
    return problems


def _drops(chain, own):
    """Return how the chain drops what no rule accepts, or nothing."""
    if chain.get("policy") == "drop":
        return "by its policy"
    last = own[-1] if own else []
    if last and all(_is_verdict(part, ("drop", "reject")) or "counter" in part for part in last):
        return "by its last rule"
    return ""


def _is_verdict(part, verdicts):
    return any(verdict in part for verdict in verdicts)


def _missing(chain, key, how, rules, tunnel_ports):
    name = "nftables chain %s %s %s" % key
    reachable = _reachable(key, rules)
    problems = []
    if not any(_accepts_devices(rule) for rule in reachable):
        open_it = 'open it: nft insert rule %s %s %s iifname "%s*" accept' % (*key, DEVICES)
        if chain["hook"] == "forward":
            open_it += ", and the same with oifname"
        what = "forwarded traffic between links" if chain["hook"] == "forward" else "traffic that arrives over links"
        problems.append("%s drops %s %s; %s" % (name, what, how, open_it))
    if chain["hook"] == "input":
        for port in tunnel_ports:
            if not any(_accepts_udp(rule, port) for rule in reachable):
                open_it = "open it: nft insert rule %s %s %s udp dport %d accept" % (*key, port)
                problems.append("%s drops tunnel traffic to UDP port %d %s; %s" % (name, port, how, open_it))
    return problems


def _reachable(key, rules, depth=8):
    """Return all rules of a chain and of the chains that it jumps to."""
    found = []
    for rule in rules.get(key, []):
        found.append(rule)
        for part in rule:
            target = (part.get("jump") or part.get("goto") or {}).get("target")
            if target and depth:
                found += _reachable((key[0], key[1], target), rules, depth - 1)
    return found


def _matches(rule):
    """Return [(what is compared, value)] of the equality matches of a rule."""
    found = []
    for part in rule:
        match = part.get("match")
        if match and match.get("op") in ("==", "in"):
            left = match["left"]
            kind = left.get("meta", {}).get("key") or left.get("payload", {}).get("field") or ""
            found.append((kind, match["right"]))
    return found


def _unconditional(rule):
    return not any("match" in part for part in rule)


def _accepts_devices(rule):
    if not any("accept" in part for part in rule):
        return False
    names = [value for kind, value in _matches(rule) if kind in ("iifname", "oifname")]
    flat = [name for value in names for name in (value.get("set", []) if isinstance(value, dict) else [value])]
    return _unconditional(rule) or any(str(name).startswith(DEVICES) for name in flat)


def _accepts_udp(rule, port):
    if not any("accept" in part for part in rule):
        return False
    matches = dict(_matches(rule))
    if _unconditional(rule):
        return True
    if "dport" in matches:
        return _holds(matches["dport"], port)
    # a rule that trusts a device or a source without looking at ports
    return (
        bool({"iifname", "saddr"} & set(matches)) and not {"state", "sport"} & set(matches) and not _loopback(matches)
    )


def _loopback(matches):
    return matches.get("iifname") in ("lo", "sk-*")


def _holds(value, port):
    if isinstance(value, dict) and "set" in value:
        return any(_holds(item, port) for item in value["set"])
    if isinstance(value, dict) and "range" in value:
        first, last = value["range"]
        return int(first) <= port <= int(last)
    return str(value) == str(port)


def iptables_problems(text, command, tunnel_ports):
    """Return a sentence for each dropping policy that ``iptables -S`` shows without a rule that lets ours pass."""
    problems = []
    policies = dict(re.findall(r"^-P (\S+) (\S+)", text, re.M))
    rules = re.findall(r"^-A (.*-j ACCEPT.*)$", text, re.M)
    if policies.get("FORWARD") == "DROP" and not any("sk-+" in rule for rule in rules):
        open_it = "%s -I FORWARD -i sk-+ -j ACCEPT, and the same with -o" % command
        problems.append(
            "%s chain FORWARD drops forwarded traffic between links by its policy; open it: %s" % (command, open_it)
        )
    if policies.get("INPUT") == "DROP":
        if not any(rule.startswith("INPUT") and "sk-+" in rule for rule in rules):
            open_it = "%s -I INPUT -i sk-+ -j ACCEPT" % command
            problems.append(
                "%s chain INPUT drops traffic that arrives over links by its policy; open it: %s" % (command, open_it)
            )
        for port in tunnel_ports:
            if not any(re.search(r"--dports? (\S*\b)?%d\b" % port, rule) for rule in rules):
                open_it = "%s -I INPUT -p udp --dport %d -j ACCEPT" % (command, port)
                problems.append(
                    "%s chain INPUT drops tunnel traffic to UDP port %d by its policy; open it: %s"
                    % (command, port, open_it)
                )
    return problems
