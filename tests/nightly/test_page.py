"""The night's page tells its steps, rows and the gate's words, as text that cannot be markup."""

from __future__ import annotations

from html import escape
from html.parser import HTMLParser
from pathlib import Path

from jobs.lake.lake import Lake
from jobs.nightly.names import STEPS
from jobs.nightly.page import render, write
from jobs.nightly.record import Record, StepRecord
from tests.builders.nights import DATES

CHECKS = ["auc: at least 0.6 wanted, found 0.5", "auc of origin=<JFK>: found 0.7"]
EVALUATED = {
    "passed": False,
    "checks": CHECKS,
    "reasons": CHECKS[:1],
    "report": "s3://lake/visits/reports/evaluate-1.html",
}
NIGHT = Record(
    DATES[1],
    caught_up=(DATES[0],),
    steps={
        **dict.fromkeys(STEPS, StepRecord("done", message="all <of> it")),
        "etl": StepRecord("done", values={"counts": {"raw": 12_345}}),
        "evaluate": StepRecord("done", values=EVALUATED),
        "gate": StepRecord("refused", exit_code=4),
    },
)


class Words(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.said: list[str] = []
        self.links: list[str | None] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name == "href"]

    def handle_data(self, data: str) -> None:
        self.said.append(data)


def test_the_page_of_a_refused_night(tmp_path: Path) -> None:
    text = Path(write(Lake(str(tmp_path), "visits"), NIGHT)).read_text(encoding="utf-8")
    page = Words()
    page.feed(text)
    said = " ".join(page.said)
    for words in (*CHECKS, *STEPS[:-1], "12,345", "Gate: refused", "exit code 4", DATES[0]):
        assert words in said
    assert page.links == ["../reports/evaluate-1.html"]
    assert not {"of", "jfk"} & set(page.tags)
    assert f"class='no'>{escape(CHECKS[0])}" in text
    assert f"class='yes'>{escape(CHECKS[1])}" in text


def test_what_passed_is_said_beside_the_rows_that_did_not(tmp_path: Path) -> None:
    def said(**counts: dict[str, int]) -> str:
        steps = {
            **NIGHT.steps,
            "evaluate": StepRecord("done", values={**EVALUATED, "passed": True}),
        }
        steps |= {name: StepRecord("done", values={"counts": of}) for name, of in counts.items()}
        steps["gate"] = StepRecord("done")
        page = Words()
        page.feed(render(Lake(str(tmp_path), "visits"), Record(DATES[1], steps=steps)))
        return " ".join(page.said)

    refused = said(
        etl={"raw": 9, "quarantined": 3, "label_absent": 1}, score={"raw": 5, "quarantined": 1_000}
    )
    assert "The data and the gate passed; single rows refused: 4 in etl, 1,000 in score." in refused
    none = said(etl={"raw": 9, "quarantined": 0})
    assert "The data and the gate passed; no row was refused." in none
