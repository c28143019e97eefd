"""Wrong solutions of chapter 1, and how their explanations begin."""

from __future__ import annotations

from tests.support.wrongs.wrong import Wrong

GOODBYE = 'raise Ends(int.from_bytes(data[:2], "big") or 1000)'

CODE = 'frame(CLOSE, end.args[0].to_bytes(2, "big"))'

# Takes for a frame what one read returns.
ONE_READ = """
    import asyncio

    chunk = await reader.read(65536)
    reader = asyncio.StreamReader()
    reader.feed_data(chunk)
    reader.feed_eof()
"""

HEAD = "    first, second = await reader"

WRONGS: tuple[Wrong, ...] = (
    Wrong("no GUID", "the accept key is wrong", (("(key + GUID)", "key"),)),
    Wrong(
        "in hex",
        "the accept key is wrong",
        ((".digest()", ".digest().hex().encode()"),),
    ),
    Wrong(
        "no hello",
        "your server does not speak first",
        (("    writer.write(frame(TEXT, hello()))\n", ""),),
    ),
    Wrong(
        "an end is missing",
        "the client waits for",
        ((r'accept + b"\r\n\r\n"', r'accept + b"\r\n"'),),
    ),
    Wrong(
        "read",
        "TCP is a stream",
        (("exactly(size)", "(size)"), ("exactly(2)\n    size", "(2)\n    size")),
    ),
    Wrong("one read, one frame", "TCP is a stream", ((HEAD, ONE_READ + HEAD),)),
    Wrong(
        "nobody catches",
        "`Ends` leaves",
        (("except Ends as end", "except ZeroDivisionError as end"),),
    ),
    Wrong("masked", "the data are still masked", (("byte ^ mask[index % 4]", "byte"),)),
    Wrong(
        "masked, not decoded",
        "the data are still masked",
        (
            ("byte ^ mask[index % 4]", "byte"),
            ("message.decode()", 'message.decode(errors="replace")'),
        ),
    ),
    Wrong(
        "decode raises",
        "a text that is no UTF-8",
        (("except UnicodeDecodeError", "except ZeroDivisionError"),),
    ),
    Wrong(
        "short lengths only",
        "the length of a longer",
        (("if size > 125", "if False"),),
    ),
    Wrong(
        "no length of eight bytes",
        "the length of a longer",
        (("size > 125", "size == 126"),),
    ),
    Wrong(
        "no limit",
        "a message has no limit",
        (("if size > LIMIT", "if False"), ("if len(message) > LIMIT", "if False")),
    ),
    Wrong(
        "no limit for fragments together",
        "fragments have no limit together",
        (("if len(message) > LIMIT", "if False"),),
    ),
    Wrong(
        "each fragment decoded",
        "a fragment may end in the middle",
        (
            ('message = b""', 'message = ""'),
            ("message += data", "message += data.decode()"),
            ("len(message)", "len(message.encode())"),
            ("answer(message.decode())", "answer(message)"),
        ),
    ),
    Wrong(
        "each fragment decoded anyhow",
        "a fragment may end in the middle",
        (
            ('message = b""', 'message = ""'),
            (
                "message += data",
                "whole = last and opcode == TEXT\n                "
                'message += data.decode(errors="strict" if whole else "replace")',
            ),
            ("len(message)", "len(message.encode())"),
            ("answer(message.decode())", "answer(message)"),
        ),
    ),
    Wrong(
        "never a new message",
        "what came before",
        (('                    message = b""\n', ""),),
    ),
    Wrong(
        "a frame is a message",
        "a frame is not a message",
        (("if last:", "if True:"),),
    ),
    Wrong(
        "a ping resets",
        "a frame is not a message",
        (
            (
                "frame(PONG, data))",
                'frame(PONG, data))\n                message = b""',
            ),
        ),
    ),
    Wrong(
        "an empty pong",
        "a pong has the data",
        (("frame(PONG, data)", 'frame(PONG, b"")'),),
    ),
    Wrong(
        "no pong",
        "a ping is answered",
        (("writer.write(frame(PONG, data))", "pass"),),
    ),
    Wrong(
        "binary as text",
        "binary frames are served",
        (
            ("elif opcode == BINARY:", "elif opcode == 99:"),
            ("(TEXT, CONTINUATION)", "(TEXT, CONTINUATION, BINARY)"),
        ),
    ),
    Wrong(
        "binary ignored",
        "a binary frame is passed over",
        (
            (
                "elif opcode == BINARY:\n                raise Ends(1003)",
                "elif opcode == BINARY:\n                pass",
            ),
        ),
    ),
    Wrong(
        "decoded anyhow",
        "bytes that are no UTF-8",
        (("message.decode()", 'message.decode(errors="replace")'),),
    ),
    Wrong(
        "no goodbye",
        "a client that says goodbye",
        ((GOODBYE, "return"),),
    ),
    Wrong(
        "goodbye ignored",
        "a client that says goodbye",
        ((GOODBYE, "pass"),),
    ),
    Wrong(
        "no end",
        "after both close frames",
        ((GOODBYE, "writer.write(frame(CLOSE, data[:2]))"),),
    ),
    Wrong(
        "an end without a word",
        "a connection ended without its code",
        ((f"writer.write({CODE})", "pass"),),
    ),
    Wrong(
        "a code in digits",
        "a connection ended without its code",
        ((CODE, "frame(CLOSE, str(end).encode())"),),
    ),
)
