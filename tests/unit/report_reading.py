"""What the tests of reports share: folders made by hand, and a page read back into numbers from what is drawn on it."""

import json
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

VOID = {"meta", "br", "img", "link", "input", "hr"}


def write_run(
    folder: Path,
    *,
    lines: list[dict[str, Any]],
    summary: dict[str, Any] | None = None,
    experiment: dict[str, Any] | None = None,
    **inference: Any,
) -> Path:
    """Write a run's folder; ``inference``: the contents of inference/NAME.json."""
    (folder / "inference").mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    documents = {"summary": summary, "experiment": experiment, **{f"inference/{name}": value for name, value in inference.items()}}
    for name, value in documents.items():
        if value is not None:
            (folder / f"{name}.json").write_text(json.dumps(value))
    return folder


def line(number: int, **values: Any) -> dict[str, Any]:
    """Return a round's line with figures that tell it from any other round's."""
    return {
        "round": number,
        "seconds": 2.0 * number,
        "samples": 100 + number,
        "clients": 6,
        "client_loss": 2.0 / number,
        "server_loss": 1.5 / number,
        "accuracy": {
            "3": {"client": 0.1 * number, "server": 0.15 * number},
            "10": {"client": 0.12 * number, "server": 0.16 * number},
        },
        "bytes": 3_000_000 * number,
    } | values


@dataclass
class Node:
    """An element, with what is in it. ``text``: its own and that of all elements in it."""

    tag: str
    attributes: dict[str, str]
    children: "list[Node]" = field(default_factory=list)
    text: str = ""

    def all(self, tag: str, kind: str = "") -> "list[Node]":
        """Return the elements below of a tag, and of a class if one is given, in order."""
        found = []
        for child in self.children:
            if child.tag == tag and (not kind or kind in child.attributes.get("class", "").split()):
                found.append(child)
            found += child.all(tag, kind)
        return found


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open = [Node("", {})]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"<{tag}> has an attribute twice"
        node = Node(tag, {name: value or "" for name, value in attrs})
        self.open[-1].children.append(node)
        if tag not in VOID:
            self.open.append(node)

    def handle_endtag(self, tag: str) -> None:
        assert tag not in VOID
        assert self.open[-1].tag == tag, f"</{tag}> closes <{self.open[-1].tag}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        for node in self.open:
            node.text += data


def parse(page: str) -> Node:
    """Return a page's elements, after checking that each is closed where it should be."""
    reader = _Reader()
    reader.feed(page)
    reader.close()
    assert len(reader.open) == 1, f"<{reader.open[-1].tag}> is not closed"
    return reader.open[0]


def figure(page: str, name: str) -> Node:
    """Return a figure of a page."""
    return next(node for node in parse(page).all("figure") if node.attributes["id"] == name)


def drawn(figure: Node) -> list[dict[str, list[tuple[float, float]]]]:
    """Return for each chart of a figure the points of each line, by its label, as read off the axes; in units of the axes."""
    return [_read(chart) for chart in figure.all("svg", "chart")]


def _read(chart: Node) -> dict[str, list[tuple[float, float]]]:
    ticks = chart.all("text", "tick")
    down = [(float(tick.attributes["y"]), _number(tick.text)) for tick in ticks if tick.attributes["text-anchor"] == "end"]
    along = [(float(tick.attributes["x"]), _number(tick.text)) for tick in ticks if tick.attributes["text-anchor"] == "middle"]
    found = {}
    for group in chart.all("g"):
        marks = [mark for mark in group.all("g") if mark.all("title")]
        if marks:
            label = marks[0].all("title")[0].text.split(";")[0]
            lines = group.all("path", "line")
            places = _places(lines[0].attributes["d"]) if lines else [_translation(mark) for mark in marks]
            found[label] = [(_value(along, x), _value(down, y)) for x, y in places]
    return found


def _number(text: str) -> float:
    return float(text[:-1]) * 1000 if text.endswith("k") else float(text)


def _places(path: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"[ML]([\d.-]+) ([\d.-]+)", path)]


def _translation(mark: Node) -> tuple[float, float]:
    x, y = re.findall(r"translate\(([\d.-]+) ([\d.-]+)\)", mark.attributes["transform"])[0]
    return float(x), float(y)


def _value(ticks: list[tuple[float, float]], place: float) -> float:
    (first, low), (last, high) = ticks[0], ticks[-1]
    return low + (place - first) / (last - first) * (high - low)
