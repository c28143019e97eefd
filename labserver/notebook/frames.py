"""Frames taken apart: fields as a table, and one frame as a picture of bits and bytes.

See RFC 6455 section 5.2. The parser does not use ``websockets``, so that a learner can
read all of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Polygon, Rectangle

from labserver.load.pictures.style import COLOURS, INK
from labserver.notebook.charts import WIDTH, Picture

KINDS = {0: "continuation", 1: "text", 2: "binary", 8: "close", 9: "ping", 10: "pong"}
SHOWN = 40  # characters of a payload in a table


@dataclass(frozen=True)
class Frame:
    """One frame, in its parts.

    Attributes:
        head: The first two bytes.
        longer: Further bytes of the length: 0, 2 or 8 of them.
        mask: The 4 bytes of the mask, or none.
        sent: The payload as it is on the wire, perhaps masked.

    """

    head: bytes
    longer: bytes
    mask: bytes
    sent: bytes

    @property
    def final(self) -> bool:
        return bool(self.head[0] & 0x80)

    @property
    def opcode(self) -> int:
        return self.head[0] & 0x0F

    @property
    def payload(self) -> bytes:
        if not self.mask:
            return self.sent
        return bytes(b ^ self.mask[i % 4] for i, b in enumerate(self.sent))

    @property
    def size(self) -> int:
        return sum(map(len, (self.head, self.longer, self.mask, self.sent)))

    @property
    def bits(self) -> list[tuple[str, str]]:
        """The first two bytes, field by field, as zeros and ones."""
        text = f"{self.head[0]:08b}{self.head[1]:08b}"
        cuts = (("FIN", 1), ("RSV", 3), ("opcode", 4), ("MASK", 1), ("length", 7))
        fields, at = [], 0
        for name, width in cuts:
            fields.append((name, text[at : at + width]))
            at += width
        return fields

    @property
    def parts(self) -> list[tuple[str, bytes]]:
        """Names and bytes of the parts after the first two bytes, if present."""
        payload = "payload, masked" if self.mask else "payload"
        named = (
            ("more length", self.longer),
            ("mask", self.mask),
            (payload, self.sent),
        )
        return [(name, data) for name, data in named if data]


class Frames(list[Frame]):
    """Frames that a cell shows as a table."""

    def __repr__(self) -> str:
        return "; ".join(
            f"{KINDS.get(each.opcode, '?')} of {len(each.sent)} in {each.size} bytes"
            for each in self
        )

    def _repr_markdown_(self) -> str:
        names = ["FIN", "RSV", "opcode", "MASK", "length"]
        lines = [f"| {' | '.join(names)} | bytes before the payload | payload |"]
        lines.append("|" + "---|" * (len(names) + 2))
        for each in self:
            bits = [f"`{text}`" for _, text in each.bits]
            bits[2] += f" {KINDS.get(each.opcode, '?')}"
            bits[4] += f" {int(each.bits[4][1], 2)}"
            before = each.size - len(each.sent)
            text = each.payload.decode(errors="replace").replace("|", "\\|")
            text = text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"
            shown = f"`{text}`" if text else ""
            lines.append(f"| {' | '.join(bits)} | {before} | {shown} |")
        return "\n".join(lines)


def take_apart(data: bytes) -> Frames:
    """Return the frames that bytes consist of.

    Raises:
        ValueError: The last frame is not complete.

    """
    frames = Frames()
    while data:
        frame = _first(data)
        frames.append(frame)
        data = data[frame.size :]
    return frames


def _first(data: bytes) -> Frame:
    short = data[1] & 0x7F if len(data) > 1 else 0
    more = {126: 2, 127: 8}.get(short, 0)
    longer = data[2 : 2 + more]
    length = int.from_bytes(longer) if more else short
    start = 2 + more
    mask = data[start : start + 4] if len(data) > 1 and data[1] & 0x80 else b""
    start += len(mask)
    frame = Frame(data[:2], longer, mask, data[start : start + length])
    if len(frame.head) < 2 or len(longer) < more or len(frame.sent) < length:
        raise ValueError(f"{len(data)} bytes are not a whole frame")
    return frame


def frame_map(frame: Frame, *, title: str) -> Picture:
    """Draw a frame: the first two bytes bit by bit, then all of it byte by byte."""
    figure = Figure(figsize=(WIDTH, 3.1), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontsize=11, color=INK, pad=8)
    count, bits = frame.size, 16
    scale = bits / count  # the boxes of both rows fill the same width
    place = 0.0
    meant = {"opcode": KINDS.get(frame.opcode, "?"), "FIN": "last"[: 4 * frame.final]}
    meant["length"] = str(frame.head[1] & 0x7F)
    for index, (name, text) in enumerate(frame.bits):
        name = ": ".join(filter(None, (name, meant.get(name))))
        _field(axes, place, 2.0, list(text), 1.0, name, COLOURS[index], above=True)
        place += len(text)
    axes.plot([16, 2 * scale], [1.95, 1.05], color=INK, lw=0.8, ls=(0, (3, 3)))
    axes.add_patch(
        Polygon(
            [(0, 1.95), (16, 1.95), (2 * scale, 1.05), (0, 1.05)],
            facecolor=INK,
            alpha=0.04,
            edgecolor="none",
        )
    )
    fields: Sequence[tuple[str, bytes]] = [("head", frame.head), *frame.parts]
    colours = (INK, COLOURS[4], COLOURS[3], COLOURS[0])
    place = 0.0
    for (name, data), colour in zip(fields, _chosen(fields, colours), strict=True):
        boxes = [f"{byte:02x}" for byte in data]
        _field(axes, place, 0.0, boxes, scale, name, colour, above=False)
        if frame.mask and name.startswith("payload"):
            axes.text(
                place,
                -0.85,
                "with the mask removed ",
                ha="right",
                va="center",
                fontsize=9,
                color=colour,
            )
        if name.startswith("payload"):
            for index, byte in enumerate(frame.payload):
                if 32 <= byte < 127:
                    middle = place + (index + 0.5) * scale
                    _text(axes, middle, -0.85, chr(byte), colour, mono=True)
        place += len(data) * scale
    axes.set_xlim(-0.1, 16.1)
    axes.set_ylim(-1.1, 3.7)
    axes.set_axis_off()
    words = ", ".join(f"{name} {text}" for name, text in frame.bits)
    words += "; " + ", ".join(f"{name} {data.hex(' ')}" for name, data in fields)
    return Picture(figure, f"{title}: {words}.")


def _chosen(fields: Sequence[tuple[str, bytes]], colours: tuple[str, ...]) -> list[str]:
    names = ("head", "more length", "mask", "payload")
    return [colours[names.index(name.partition(",")[0])] for name, _ in fields]


def _field(
    axes: Axes,
    left: float,
    bottom: float,
    boxes: Sequence[str],
    width: float,
    name: str,
    colour: str,
    *,
    above: bool,
) -> None:
    """Draw the boxes of one field, and its name above or below them."""
    for index, text in enumerate(boxes):
        at = left + index * width
        axes.add_patch(
            Rectangle(
                (at + 0.03, bottom),
                width - 0.06,
                1,
                facecolor=colour,
                alpha=0.15,
                edgecolor="none",
            )
        )
        _text(axes, at + width / 2, bottom + 0.5, text, INK, mono=True)
    line = bottom + 1.1 if above else bottom - 0.1
    right = left + len(boxes) * width
    axes.plot([left + 0.05, right - 0.05], [line, line], color=colour, lw=2)
    _text(axes, (left + right) / 2, line + (0.3 if above else -0.28), name, colour)


def _text(
    axes: Axes, x: float, y: float, text: str, colour: str, *, mono: bool = False
) -> None:
    family = "monospace" if mono else "sans-serif"
    axes.text(
        x,
        y,
        text,
        ha="center",
        va="center",
        fontsize=10 if mono else 9,
        color=colour,
        family=family,
    )
