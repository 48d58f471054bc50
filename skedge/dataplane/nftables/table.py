"""Our nftables table: one program that reads and writes it, one listing for all who ask."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from skedge.core.errors import DataplaneError
from skedge.dataplane.nftables import syntax
from skedge.dataplane.nftables.syntax import FAMILY, TABLE

READ_EVERY_S = 30.0
NFT_TIMEOUT_S = 30
_PATH = os.defpath + ":/usr/sbin:/sbin"

Run = Callable[[Mapping[str, Any] | None], Mapping[str, Any]]
Item = tuple[str, Mapping[str, Any]]


def run_nft(script: Mapping[str, Any] | None, family: str = FAMILY) -> Mapping[str, Any]:
    """Run a JSON script, or list our table of a family when there is none. Raises DataplaneError."""
    return _call(["list", "table", family, TABLE] if script is None else ["-f", "-"], script)


def rules_of(family: str, table: str, chain: str) -> Sequence[Sequence[Mapping[str, Any]]]:
    """Return the expressions of each rule of somebody else's chain; nothing where it is not there.

    Raises:
        DataplaneError: nft is missing, or refused.
    """
    listed = _call(["list", "chain", family, table, chain], None).get("nftables", [])
    return [item["rule"]["expr"] for item in listed if "rule" in item]


def _call(arguments: Sequence[str], script: Mapping[str, Any] | None) -> Mapping[str, Any]:
    nft = shutil.which("nft", path=os.environ.get("PATH", "") + ":" + _PATH)
    if nft is None:
        raise DataplaneError("the program nft is missing; install the package nftables")
    command, said = [nft, "-j", *arguments], json.dumps(script or {})
    try:
        result = subprocess.run(command, input=said, capture_output=True, text=True, check=False, timeout=NFT_TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        raise DataplaneError(f"nft: not done after {NFT_TIMEOUT_S} s") from error
    if result.returncode == 0:
        return json.loads(result.stdout) if result.stdout.strip() else {}
    lines = result.stderr.strip().splitlines()
    if script is None and "No such file or directory" in result.stderr:
        return {}
    raise DataplaneError(f"nft: {lines[0] if lines else 'exit code ' + str(result.returncode)}")


class NftTable:
    """The table of one host, of one family. Safe for use from several threads.

    A listing is valid for `READ_EVERY_S` seconds, until a change of ours, or until `forget`. ``who`` asks is what an
    error begins with.
    """

    def __init__(
        self, run: Run | None = None, clock: Callable[[], float] = time.monotonic, family: str = FAMILY
    ) -> None:
        self._run = run or partial(run_nft, family=family)
        self._clock, self._family = clock, family
        self._lock = threading.RLock()
        self._known: Sequence[Item] = ()
        self._read_at = float("-inf")
        self._age = 0  # grows with each reason to read anew
        self._known_age = -1

    def items(self, who: str) -> Sequence[Item]:
        """Return kind and value of every object in the table, at most `READ_EVERY_S` seconds old.

        Raises:
            DataplaneError: nft is missing, or refused.
        """
        with self._lock:
            if self._known_age == self._age and self._clock() - self._read_at <= READ_EVERY_S:
                return self._known
            return self.fresh(who)

    def fresh(self, who: str) -> Sequence[Item]:
        """Return the same as `items`, as it is now. Raises DataplaneError."""
        with self._lock:
            age, at = self._age, self._clock()
            listed = self._asked(who, None).get("nftables", [])
            self._known = [item for one in listed for item in one.items() if item[0] != "metainfo"]
            self._known_age, self._read_at = age, at
            return self._known

    def forget(self) -> None:
        """Read anew at the next question; somebody may have changed the table. Never waits."""
        self._age += 1

    def change(self, who: str, commands: Iterable[Mapping[str, Any]]) -> None:
        """Carry out commands as one change, all or none; no commands are none. Raises DataplaneError."""
        said = list(commands)
        if not said:
            return
        with self._lock:
            try:
                self._asked(who, syntax.script(*said, family=self._family))
            finally:
                self.forget()

    def packets(self, who: str) -> Mapping[str, int]:
        """Return how many packets each named counter has counted until now. Raises DataplaneError."""
        counters = (value for kind, value in self.fresh(who) if kind == "counter")
        return {str(one["name"]): int(one["packets"]) for one in counters}

    def names(self) -> list[str]:
        """Return the name of our table in a list, an empty one when there is none. Raises DataplaneError."""
        return [f"{self._family} {TABLE}"] if self.fresh("table") else []

    def remove(self) -> None:
        """Remove our table with all in it, if it is there. Raises DataplaneError."""
        if self.names():
            self.change("table", [{"delete": {"table": {"family": self._family, "name": TABLE}}}])

    def _asked(self, who: str, script: Mapping[str, Any] | None) -> Mapping[str, Any]:
        try:
            return self._run(script)
        except DataplaneError as error:
            raise DataplaneError(f"{who}: {error}") from error
