"""The picture of a run: faults, nodes, leaders, latencies, throughput and memory over its seconds,
as an HTML page with what the checkers said, and as a PNG.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, NamedTuple

from chaos.checkers.verdict import NAMED_MAX, Verdict
from chaos.clients.connection import Operation
from chaos.cluster.nodes import Look
from chaos.report.canvas import Box, Canvas, Dot, Line, Words

WIDTH: Final = 1200
LEFT, RIGHT = 90, 20
LANE: Final = 14
DOTS_MAX: Final = 6000  # a browser draws so many at once
FASTEST_S, SLOWEST_S = 0.001, 10.0
BUCKET_S: Final = 0.25
COLOURS: Final = ("#4878cf", "#ee854a", "#6acc64", "#d65f5f", "#956cb4")
TOLD_COLOURS: Final = {"done": "#4878cf", "refused": "#e8a838", "unknown": "#c02020"}
FAULT, DEAD, PALE, GREY = "#f4b6b6", "#555555", "#eeeeee", "#999999"

PAGE: Final = """<!doctype html><meta charset="utf-8"><title>{title}</title>
<style>body{{font:14px sans-serif;margin:1.5em;max-width:1240px}}
td,th{{padding:.2em .8em;text-align:left}}
.right{{color:#2a7a2a}}.wrong{{color:#b00000;font-weight:bold}}</style>
<h1>{title}</h1><table><tr><th>checker<th>looked at<th>verdict</tr>{rows}</table>{picture}
<p>Dots are requests, coloured by what the client was told: {legend}. An unknown outcome is no
failure. Leaders are coloured by node, as most nodes name them. Beside this page:
<code>history.jsonl</code>, <code>operations.jsonl</code>, <code>events.jsonl</code>, the nodes'
logs. The same choices again: <code>{again}</code></p>
"""


class Event(NamedTuple):
    """Something that happened to the cluster: seconds of the run, a word, its facts."""

    at: float
    what: str
    facts: dict[str, Any]


class Timeline(NamedTuple):
    """All there is to draw."""

    name: str
    seed: str
    events: Sequence[Event]
    operations: Sequence[Operation]
    looks: Sequence[Look]

    def write(self, folder: Path, verdicts: Sequence[Verdict]) -> None:
        """`report.html` and `report.png` in `folder`."""
        canvas = self.draw()
        canvas.write_png(folder / "report.png")
        legend = ", ".join(
            f'<span style="color:{colour}">{told}</span>' for told, colour in TOLD_COLOURS.items()
        )
        page = PAGE.format(
            title=escape(f"{self.name}, seed {self.seed}"),
            rows="".join(map(_row, verdicts)),
            picture=canvas.svg(),
            legend=legend,
            again=escape(f'make chaos ARGS="--cell {self.name} --seed {self.seed}"'),
        )
        (folder / "report.html").write_text(page)

    @property
    def _end(self) -> float:
        moments = [event.at for event in self.events] + [one.ended for one in self.operations]
        return max(moments, default=1.0)

    def draw(self) -> Canvas:
        """One panel under the other."""
        canvas = Canvas(WIDTH, 0)
        end = self._end
        width = (WIDTH - LEFT - RIGHT) / max(end, 1.0)

        def x_of(at: float) -> float:
            return LEFT + width * at

        y = 10.0
        for panel in (
            self._faults,
            self._nodes,
            self._leaders,
            self._latencies,
            self._throughput,
            self._memory,
        ):
            y = panel(canvas, x_of, y) + 14
        for second in range(0, math.ceil(end) + 1, max(1, math.ceil(end / 20))):
            canvas.strokes.append(Words(x_of(second), y + 4, f"{second} s", GREY))
        canvas.height = int(y + 14)
        return canvas

    # --- panels: each draws from `y` on, and returns where it ended ------------------------------

    def _faults(self, canvas: Canvas, x_of: Callable[[float], float], y: float) -> float:
        canvas.strokes.append(Words(4, y + 11, "faults"))
        for began, ended, event in self._spans("fault", "healed", "fault"):
            said = f"{event.facts['fault']} {' '.join(event.facts.get('nodes', ()))}"
            box = Box(x_of(began), y, x_of(ended) - x_of(began), LANE, FAULT, said)
            canvas.strokes += [box, Words(x_of(began) + 2, y + 11, said[: int(box.width / 6)])]
        for event in self.events:
            if event.what == "all healed":
                canvas.strokes.append(Box(x_of(event.at), y, 2, LANE, "#2a7a2a", "all healed"))
        return y + LANE

    def _spans(self, begin: str, end: str, same: str) -> Iterator[tuple[float, float, Event]]:
        open_spans: dict[object, Event] = {}
        for event in self.events:
            if event.what == begin:
                open_spans[event.facts.get(same)] = event
            elif event.what == end and event.facts.get(same) in open_spans:
                first = open_spans.pop(event.facts.get(same))
                yield first.at, event.at, first
        for first in open_spans.values():
            yield first.at, self._end, first

    def _nodes(self, canvas: Canvas, x_of: Callable[[float], float], y: float) -> float:
        for number, node in enumerate(self._names()):
            canvas.strokes.append(Words(4, y + 11, node, COLOURS[number % len(COLOURS)]))
            seen = [look for look in self.looks if look.node == node]
            for look, following in pairwise(seen):
                colour = PALE if look.leaders else DEAD
                x = x_of(look.at)
                canvas.strokes.append(Box(x, y, x_of(following.at) - x, LANE - 3, colour))
            for event in self.events:
                if event.what == "died" and event.facts["node"] == node:
                    said = f"ended with {event.facts['code']}"
                    canvas.strokes.append(Box(x_of(event.at), y, 3, LANE - 3, "#b00000", said))
            y += LANE
        return y

    def _names(self) -> list[str]:
        return sorted({look.node for look in self.looks})

    def _leaders(self, canvas: Canvas, x_of: Callable[[float], float], y: float) -> float:
        names = self._names()
        shards = sorted({shard for look in self.looks for shard in look.leaders}, key=int)
        moments: dict[int, list[Look]] = {}
        for look in self.looks:
            moments.setdefault(int(look.at * 2), []).append(look)
        for shard in shards:
            canvas.strokes.append(Words(4, y + 10, f"shard {shard}"))
            for moment, looks in sorted(moments.items()):
                votes = Counter(look.leaders.get(shard, "") for look in looks if look.leaders)
                leader = votes.most_common(1)[0][0] if votes else ""
                if leader in names:
                    colour = COLOURS[names.index(leader) % len(COLOURS)]
                    x = x_of(moment / 2)
                    canvas.strokes.append(Box(x, y, x_of(moment / 2 + 0.5) - x, 9, colour))
            y += 11
        return y

    def _latencies(self, canvas: Canvas, x_of: Callable[[float], float], y: float) -> float:
        height = 160.0
        decades = math.log10(SLOWEST_S / FASTEST_S)

        def y_of(seconds: float) -> float:
            bounded = min(max(seconds, FASTEST_S), SLOWEST_S)
            return y + height * (1 - math.log10(bounded / FASTEST_S) / decades)

        for seconds, text in ((0.001, "1 ms"), (0.01, "10 ms"), (0.1, "100 ms"), (1, "1 s")):
            level = y_of(seconds)
            canvas.strokes.append(Line(((LEFT, level), (WIDTH - RIGHT, level)), PALE))
            canvas.strokes.append(Words(40, level + 4, text, GREY))
        canvas.strokes.append(Words(4, y + 10, "latency"))
        plain = [one for one in self.operations if one.told == "done"]
        step = max(1, len(plain) // DOTS_MAX)
        other = [one for one in self.operations if one.told != "done"]
        other_step = max(1, len(other) // DOTS_MAX)
        for one in (*plain[::step], *other[::other_step]):
            took = one.ended - one.began
            canvas.strokes.append(Dot(x_of(one.began), y_of(took), TOLD_COLOURS[one.told]))
        return y + height

    def _throughput(self, canvas: Canvas, x_of: Callable[[float], float], y: float) -> float:
        height = 60.0
        counts = {told: Counter[int]() for told in TOLD_COLOURS}
        for one in self.operations:
            counts[one.told][int(one.ended / BUCKET_S)] += 1
        most = max((max(one.values(), default=0) for one in counts.values()), default=0) or 1
        canvas.strokes.append(Words(4, y + 10, "requests/s"))
        canvas.strokes.append(Words(40, y + 24, f"{most / BUCKET_S:.0f}", GREY))
        for told, buckets in counts.items():
            points = [
                (x_of(bucket * BUCKET_S), y + height * (1 - buckets[bucket] / most))
                for bucket in range(int(self._end / BUCKET_S) + 1)
            ]
            canvas.strokes.append(Line(points, TOLD_COLOURS[told]))
        return y + height

    def _memory(self, canvas: Canvas, x_of: Callable[[float], float], y: float) -> float:
        height = 50.0
        most = max((look.memory_bytes for look in self.looks), default=0) or 1
        canvas.strokes.append(Words(4, y + 10, "memory"))
        canvas.strokes.append(Words(40, y + 24, f"{most >> 20} MiB", GREY))
        for number, node in enumerate(self._names()):
            points = [
                (x_of(look.at), y + height * (1 - look.memory_bytes / most))
                for look in self.looks
                if look.node == node
            ]
            if len(points) > 1:
                canvas.strokes.append(Line(points, COLOURS[number % len(COLOURS)]))
        return y + height


def _row(verdict: Verdict) -> str:
    if verdict.right:
        said = '<span class="right">right</span>'
    else:
        named = "".join(f"<li>{escape(text)}" for text in verdict.violations[:NAMED_MAX])
        count = len(verdict.violations)
        said = f'<span class="wrong">{count} violations</span><ul>{named}</ul>'
    return f"<tr><td>{escape(verdict.checker)}<td>{verdict.looked}<td>{said}</tr>"
