"""One word for one thing: words that had two meanings, or that only we used, do not come back as identifiers."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "skedge"
C_SOURCES = sorted(PACKAGE.rglob("*.[ch]"))
PYTHON_SOURCES = sorted(PACKAGE.rglob("*.py"))

# Parts of identifiers -> what is said instead.
RETIRED_C: Mapping[str, str] = {
    "aim": "listener_choose_service",
    "dispatch": "listener (its services)",
    "elsewhere": "off_host",
    "forget": "delete",
    "keep": "preserve_src for an address, affinity for a client's workload",
    "keeps": "preserve_src for an address, affinity for a client's workload",
    "kept": "preserve_src for an address, affinity for a client's workload",
    "local": "own_site, or off_host and its opposite",
    "making": "scratch, create",
    "remember": "store, affinity_store",
    "remembered": "store, STATE_TIME_WAIT",
    "sticky": "affinity",
    "wish": "request",
}
RETIRED_PYTHON: Mapping[str, str] = {
    "dispatch": "listener_target",
    "draft": "parsed file",
    "elsewhere": "off_host",
    "keeping": "preserving_sites, per_client",
    "keepers": "preserving",
    "keeps": "preserves_src, or affinity",
    "kept": "held_back, by_affinity",
    "leftover": "retired engine",
    "redispatched": "listeners_again",
    "remember": "save",
    "remembered": "saved, previous",
    "sticky": "affinity",
    "untracked": "notrack",
    "wish": "desired",
}

# Contracts, and words of others.
ALLOWED: Mapping[str, str] = {
    "KIND_LOCAL": "the kind `local` of `show flows`",
    "address_is_link_local": "link-local, of RFC 4291",
    "local_ip4": "struct bpf_sock_ops",
    "local_ip6": "struct bpf_sock_ops",
    "local_port": "struct bpf_sock_ops",
    "nat_making_v1": "the name of a pinned map",
}

# The object comes first: `flow_create`, not `create_flow`.
VERB_FIRST = re.compile(
    "(assign|check|choose|copy|count|create|delete|deliver|do|end|fill|find|get|is|load|look|make|may|parse|put|read"
    "|release|rewrite|send|set|store|take|to|track|translate|write)_"
)
FUNCTION = re.compile(r"^(?:INLINE|static __always_inline) [^;{}=()]*?\b(\w+)\(", re.M)


def c_identifiers(text: str) -> Iterator[tuple[int, str]]:
    """Yield line and name of every identifier of a C file; comments, strings and includes have none."""

    def blank(match: re.Match[str]) -> str:
        return re.sub(r"[^\n]", " ", match[0])

    code = re.sub(r'/\*.*?\*/|//[^\n]*|"[^"\n]*"', blank, text, flags=re.S)
    for number, line in enumerate(code.splitlines(), start=1):
        for name in re.findall(r"\b[A-Za-z_]\w*", line):
            yield number, name


def python_identifiers(text: str) -> Iterator[tuple[int, str]]:
    """Yield line and name of every name, attribute, argument, function, class and alias of a Python file."""
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name):
                yield node.lineno, name
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield node.lineno, name
            case ast.keyword(arg=str(name)):
                yield node.lineno, name
            case ast.alias(name=full, asname=other):
                yield node.lineno, other or full.rpartition(".")[2]


def parts(name: str) -> Iterator[str]:
    """Yield the words of an identifier, small: of snake_case, CamelCase and ALL_CAPS."""
    for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name):
        yield word.lower()


def retired(identifiers: Iterator[tuple[int, str]], words: Mapping[str, str]) -> list[str]:
    """Return one line for each identifier that has a retired word in it."""
    return [
        f"line {line}: {name}: say {words[part]}"
        for line, name in identifiers
        if name not in ALLOWED
        for part in parts(name)
        if part in words
    ]


@pytest.mark.parametrize("path", C_SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_retired_word_in_c(path: Path) -> None:
    assert not retired(c_identifiers(path.read_text()), RETIRED_C)


@pytest.mark.parametrize("path", C_SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_c_functions_name_the_object_first(path: Path) -> None:
    for name in FUNCTION.findall(path.read_text()):
        assert "_" in name, f"{name}: object and verb, as flow_create"
        assert not VERB_FIRST.match(name), f"{name}: the object first, as flow_create"


@pytest.mark.parametrize("path", PYTHON_SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_retired_word_in_python(path: Path) -> None:
    assert not retired(python_identifiers(path.read_text()), RETIRED_PYTHON)


def test_every_exception_is_still_needed() -> None:
    names = {name for path in C_SOURCES for _, name in c_identifiers(path.read_text())}
    names |= {name for path in PYTHON_SOURCES for _, name in python_identifiers(path.read_text())}
    assert names >= set(ALLOWED)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("struct wish *wish;", 2),
        ("x = SLOT_KEEPS | keep_wish(y);", 3),
        ("/* a wish */ int n; // keep\n", 0),
        ('#include "socket/wish.h"', 0),
        ("int keeper, swish, locality;", 0),
        ("port = ops->local_port;", 0),
    ],
)
def test_the_c_check_sees_identifiers_only(text: str, found: int) -> None:
    assert len(retired(c_identifiers(text), RETIRED_C)) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("wish = 1", 1),
        ("def f(keep: int) -> None: '''A wish.'''", 1),
        ("from a import keeper as keep", 1),
        ("class KeptClient: x = row.elsewhere", 2),
        ("call(sticky=1)", 1),
        ("# keep\nx = 'wish'", 0),
    ],
)
def test_the_python_check_sees_identifiers_only(text: str, found: int) -> None:
    assert len(retired(python_identifiers(text), RETIRED_C)) == found
