"""The verdict as one self-contained page, with a space-time diagram of each failure.

Time runs down. The server is a line, and so is each client; a message is an arrow, or a
row of many. A fault is a red mark on the line of its client, or a red line across all.
"""

from __future__ import annotations

from html import escape

from labserver.judge.evidence import JUDGE, Event, shown, weighty
from labserver.judge.run import Finding, Verdict
from labserver.stages import STAGES

ROW, LANE, LEFT, TOP, RIGHT = 22, 110, 70, 40, 320  # pixels
ROWS_LIMIT = 60
CLIENTS_LIMIT = 6
LABEL = 46  # characters
WIDE = 8  # pixels that a character of the last line needs at most
SVG_STYLE = """
svg text { font: 11px ui-monospace, monospace }
.lane { stroke: #999 } .sent { stroke: #1d4e89 } .received { stroke: #17693a }
.did, .end, .fault { fill: #a4161a } .end { font-weight: bold } .time { fill: #777 }
line.fault { stroke: #a4161a; stroke-dasharray: 6 3 } .opened { fill: #17693a }
"""
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto;
  padding: 0 1rem; color: #1b1b1b; background: #fff }
h2 { margin: 2rem 0 0 } .kept { color: #17693a } .broken { color: #a4161a }
.skipped, .unjudged { color: #666 } li { margin: .2rem 0 }
figure { margin: 1rem 0; overflow-x: auto }
"""
STYLE += SVG_STYLE


def page(verdict: Verdict) -> str:
    """Return the page, HTML without anything to load."""
    parts = [f"<style>{STYLE}</style>", "<h1>Which promises the server keeps</h1>"]
    for name in verdict.stages:
        stage, outcome = STAGES[name], verdict.of(name)
        parts.append(
            f'<h2 class="{outcome}">{stage.number}. {escape(stage.promise)} '
            f"<small>{outcome}</small></h2><ul>"
        )
        mine = [each for each in verdict.findings if each.stage == name]
        parts += [_line(each) for each in mine]
        parts.append("</ul>")
        parts += [
            f"<h3>{escape(each.check.replace('_', ' '))}</h3>"
            f"<p>{escape(each.seen)}</p><figure>{diagram(each)}</figure>"
            for each in mine
            if each.outcome == "broken"
        ]
    title = "<!doctype html><html lang=en><meta charset=utf-8><title>Verdict</title>"
    return "\n".join([title, *parts, "</html>\n"])


def _line(finding: Finding) -> str:
    seen = f": {escape(finding.seen)}" if finding.seen else ""
    return (
        f'<li><span class="{finding.outcome}">{finding.outcome}</span> '
        f"{escape(finding.says)} ({finding.seconds:.1f} s){seen}</li>"
    )


def diagram(finding: Finding) -> str:
    """Return a space-time diagram of the last events of a broken check, as SVG."""
    rows = shown(finding.events, finding.seen, ROWS_LIMIT)
    newest = [event for event, _ in reversed(rows) if event.who != JUDGE]
    newest.sort(key=lambda event: not weighty(event, finding.seen))
    clients = list(dict.fromkeys(event.who for event in newest))
    lanes = {JUDGE, *clients[:CLIENTS_LIMIT]}
    rows = [row for row in rows if row[0].who in lanes]
    names = list(dict.fromkeys(e.who for e, _ in rows if e.who != JUDGE))
    x = {who: LEFT + LANE * (1 + number) for number, who in enumerate(names)}
    width = LEFT + LANE * (len(names) + 1) + RIGHT
    height = TOP + ROW * (len(rows) + 2)
    parts = [
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'role="img" aria-label="messages between clients and the server, time down">',
        '<defs><marker id="head" viewBox="0 0 6 6" refX="6" refY="3" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0 0L6 3L0 6z"/></marker></defs>',
    ]
    for label, at in {"server": LEFT, **x}.items():
        parts.append(
            f'<text x="{at}" y="16" text-anchor="middle">{escape(label)}</text>'
        )
        line = f'x1="{at}" x2="{at}" y1="22" y2="{height - ROW}"'
        parts.append(f'<line class="lane" {line}/>')
    for number, (event, count) in enumerate(rows):
        y = TOP + ROW * number
        parts.append(f'<text class="time" x="0" y="{y + 4}">{event.at:.3f} s</text>')
        if event.who == JUDGE:
            parts.append(_fault(event, y, width))
        else:
            parts.append(_mark(event, count, x[event.who], y))
    left_out = len(clients) - len(names)
    more = f" ({left_out} more clients are left out here)" if left_out else ""
    # The sentence itself stands above the picture.
    end = _cut(f"{finding.seconds:.3f} s: {finding.seen}", width // WIDE - len(more))
    parts.append(
        f'<text class="end" x="0" y="{height - 6}">{escape(end + more)}</text>'
    )
    return "".join([*parts, "</svg>"])


def _mark(event: Event, count: int, at: int, y: int) -> str:
    # The hover text has the message as it was; the label has the words of it.
    words = event.text.translate(str.maketrans("", "", '{}"')).replace("type:", "", 1)
    words = " ".join(words.replace(",", " ").replace(": ", ":").split())
    words = _cut(words, LABEL)
    label = escape(f"{words} ({count} times)" if count > 1 else words)
    hover = f"<title>{escape(event.text)}</title>"
    text = f'<text x="{at + 8}" y="{y + 4}">{label}{hover}</text>'
    if event.way in ("did", "opened"):
        circle = f'<circle class="{event.way}" cx="{at}" cy="{y}" r="5">'
        return f"{circle}{hover}</circle>{text}"
    start, end = (at, LEFT) if event.way == "sent" else (LEFT, at)
    return (
        f'<line class="{event.way}" x1="{start}" y1="{y - 5}" x2="{end}" y2="{y + 5}" '
        f'marker-end="url(#head)">{hover}</line>{text}'
    )


def _fault(event: Event, y: int, width: int) -> str:
    text = f'<text class="fault" x="{LEFT + 8}" y="{y - 3}">{escape(event.text)}</text>'
    return f'<line class="fault" x1="{LEFT}" x2="{width}" y1="{y}" y2="{y}"/>{text}'


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
