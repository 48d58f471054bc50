"""The rows of a run: shown as they come, counted at the end, kept as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.bench.judge import Interval, Round, Rule, Target, Verdict
from tests.bench.rounds import Series

WORDS = {Verdict.MET: "met", Verdict.MISSED: "missed", Verdict.UNDECIDED: "not decided"}
WORSE = {Verdict.MET: "not worse", Verdict.MISSED: "worse", Verdict.UNDECIDED: "not decided"}
GOOD = {Verdict.MET: True, Verdict.MISSED: False, Verdict.UNDECIDED: None}


@dataclass
class Report:
    """All rows of one run, and the words for its verdicts."""

    words: dict[Verdict, str] = field(default_factory=lambda: WORDS)
    rows: list[dict[str, object]] = field(default_factory=list)
    verdicts: list[tuple[Verdict, str]] = field(default_factory=list)

    def value(self, what: str, value: float, unit: str = "") -> None:
        """Note a number that has no target."""
        self._note({"what": what, "value": value, "unit": unit})

    def certain(self, what: str, value: float, target: str, unit: str = "") -> None:
        """Note a number that is not a matter of chance, and judge it."""
        verdict = Verdict.MET if Target(target).holds(value) else Verdict.MISSED
        self._note({"what": what, "value": value, "unit": unit, "target": target}, verdict=verdict)

    def fails(self, what: str) -> None:
        """Note a missed target of something that does not work at all."""
        self._note({"what": what, "value": 0, "unit": "", "target": "works"}, verdict=Verdict.MISSED)

    def judge(self, rule: Rule, rounds: Sequence[Round]) -> None:
        """Note a number that is made within the rounds, with its interval, and judge it if it has a target."""
        found = rule.interval(rounds)
        row = {"what": rule.what, "value": found.value, "unit": rule.unit, "target": rule.target}
        verdict = Target(rule.target).verdict(found, len(rounds)) if rule.target else None
        self._note(row, found, len(rounds), verdict)

    def rules(self, series: Series) -> None:
        """Note all rows of a series, and the ways that did not come to its end."""
        for way in series.unable:
            self.fails(f"{series.label}: {way} comes to its end")
        for rule in series.rules:
            self.judge(rule, series.rounds)

    def _note(
        self, row: dict[str, object], found: Interval | None = None, rounds: int = 0, verdict: Verdict | None = None
    ) -> None:
        said = self.words[verdict] if verdict else ""
        row = {"target": "", **row, "good": GOOD[verdict] if verdict else None, "verdict": said}
        between = ""
        if found is not None:
            row |= {"low": found.low, "high": found.high, "rounds": rounds}
            between = f"[{found.low:.3f}, {found.high:.3f}] of {rounds}"
        if verdict:
            self.verdicts.append((verdict, str(row["what"])))
        self.rows.append({key: round(item, 4) if isinstance(item, float) else item for key, item in row.items()})
        text = f"   {row['what']:66} {row['value']:12.3f} {row['unit']:8} {between:26} {row['target']:8} {said}"
        print(text.rstrip(), flush=True)

    def missed(self) -> bool:
        """Tell whether a target is missed for certain."""
        return any(verdict == Verdict.MISSED for verdict, _ in self.verdicts)

    def close(self) -> None:
        """Print how many targets have which verdict, and name those that are not met."""
        print()
        for verdict in Verdict:
            found = [what for other, what in self.verdicts if other == verdict]
            names = "" if verdict == Verdict.MET or not found else f": {'; '.join(found)}"
            print(f"{len(found)} {self.words[verdict]}{names}")
