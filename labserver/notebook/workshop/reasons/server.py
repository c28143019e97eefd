"""Why the best known wrong versions of a server are wrong."""

from __future__ import annotations

from labserver.notebook.workshop.reasons.reason import Reason

UNMASKED = (
    "the data are still masked. Byte `i` of a client's data is XORed with byte `i % 4` "
    "of the mask, which stands between the head and the data."
)

CODES = (
    "a connection ended without its code. Write a close frame before you return: its "
    "data are the code, in two bytes, the higher one first."
)

REASONS: tuple[Reason, ...] = (
    Reason(
        "hello_comes_first",
        "Sec-WebSocket-Accept",
        "the accept key is wrong. Take the key as the text that was sent, put the "
        "GUID behind it, take the SHA-1, and encode the 20 bytes of its `digest()` "
        "in base64.",
    ),
    Reason(
        "hello_comes_first",
        "in vain for a hello",
        "your server does not speak first. After the handshake write `hello()`, in a "
        "`TEXT` frame: a client waits for it before it says anything.",
    ),
    Reason(
        "hello_comes_first",
        "nothing came at all",
        "the client waits for the end of an HTTP answer. Each line ends in "
        "`\\r\\n`, and an empty line ends the head.",
    ),
    Reason(
        "fragments_are_one_message",
        "that came in pieces",
        "TCP is a stream of bytes and keeps no frames together: `read(n)` returns "
        "what has come so far. `readexactly(n)` waits for the rest.",
    ),
    Reason(
        "",
        "^Ends: ",
        "`Ends` leaves your server, and nobody sends its code. Catch it outside of "
        "the loop, and write a close frame.",
    ),
    # A random mask may leave ASCII, so it shows in one check or another.
    Reason("what_is_wrong_is_answered", "closed with 100[67] before", UNMASKED),
    Reason("every_value_comes_back", "^null was answered", UNMASKED),
    Reason(
        "what_is_no_text_ends_its_connection",
        "closed with 100[67] before the echo",
        UNMASKED,
    ),
    Reason("huge_message_is_refused", "closed with 100[67] before the echo", UNMASKED),
    Reason(
        "",
        "^UnicodeDecodeError",
        "a text that is no UTF-8 ends its connection with 1007, and `decode` says "
        "that it is none by raising `UnicodeDecodeError`.",
    ),
    Reason(
        "huge_message_is_refused",
        r"closed with 1007 before an end|: \d{1,3} came back",
        "the length of a longer frame is read wrongly: 126 says that it follows in "
        "two bytes, 127 in eight.",
    ),
    Reason(
        "huge_message_is_refused",
        r": \d{5,} came back",
        "a message has no limit. Look at the length in the head, before you read "
        "the data, and count what the fragments of a message have together.",
    ),
    Reason(
        "huge_message_is_refused",
        r"fragments of .* \d{5,} bytes came back",
        "fragments have no limit together: each of them was short enough, and their "
        "message is not. Count what you keep of a message, or one client fills the "
        "memory with a message that never ends.",
    ),
    Reason(
        "every_value_comes_back",
        "true was answered",
        "what came before is still there: after a whole message a new one begins.",
    ),
    Reason(
        "fragments_are_one_message",
        "fragments were closed with 1007|\ufffd.* came back",
        "a fragment may end in the middle of a character, and is no text by itself. "
        "Keep the bytes, and decode the whole message.",
    ),
    Reason(
        "fragments_are_one_message",
        "came back",
        "a frame is not a message. Keep the data of text and continuation frames "
        "until one has `FIN`, and let a ping between them change nothing of that.",
    ),
    Reason(
        "fragments_are_one_message",
        "the pong says",
        "a pong has the data of its ping, so that the other side knows which ping "
        "it answers.",
    ),
    Reason(
        "fragments_are_one_message",
        "in vain for a pong",
        "a ping is answered at once, also between the fragments of a message: with "
        "a frame of opcode `PONG` and the same data.",
    ),
    Reason(
        "what_is_no_text_ends_its_connection",
        r'in vain for a close with 1003(?!.*"type": ?"echo")',
        "a binary frame is passed over. Its client waits for an answer that never "
        "comes; here it has agreed on no format for such frames, so they end its "
        "connection: `raise Ends(1003)`.",
    ),
    Reason(
        "what_is_no_text_ends_its_connection",
        "in vain for a close with 1003",
        "binary frames are served like text. Here a client has agreed on no format "
        "for them, so they end their connection: `raise Ends(1003)`.",
    ),
    Reason(
        "what_is_no_text_ends_its_connection",
        "in vain for a close with 1007",
        "bytes that are no UTF-8 were taken for text. Decode strictly, and end the "
        "connection with 1007 where that fails: or each side reads another text.",
    ),
    Reason("huge_message_is_refused", "closed with 100[56] before an end", CODES),
    Reason(
        "what_is_no_text_ends_its_connection",
        r"was closed with \d|ended without a close",
        CODES,
    ),
    Reason(
        "close_is_answered",
        "without a close frame|in vain for the answer to a close",
        "a client that says goodbye waits for yours. Answer a close frame with a "
        "close frame of the same code, and return.",
    ),
    Reason(
        "close_is_answered",
        "the connection stays open",
        "after both close frames the server ends the connection: return.",
    ),
)
