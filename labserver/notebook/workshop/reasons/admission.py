"""Why the best known wrong versions of an admission are wrong."""

from __future__ import annotations

from labserver.notebook.workshop.reasons.reason import Reason

SIGNATURE = (
    "nobody looked at the signature, so anyone can write such a token. Without the "
    "option `verify_signature` it is checked, and the expiry with it."
)

OLD_TIMER = (
    "the old token ended the connection, though there was a new one. Give the member "
    "its new identity, cancel the timer of the old one, and begin another."
)

REASONS: tuple[Reason, ...] = (
    Reason(
        "",
        "^StopIteration",
        "`next` raises `StopIteration` where there is no token. With a second "
        "argument it returns that instead.",
    ),
    Reason(
        "",
        "^Refused",
        "once there is a socket, there is no HTTP answer any more: `Refused` is "
        "for `admit` alone. Later `member.end` says why it ends.",
    ),
    Reason(
        "",
        r"^(Decode|InvalidSignature|ExpiredSignature|InvalidAlgorithm|Bad\w+)",
        "what is raised for a bad token leaves your class, so the client gets a "
        "500. A bad token is nothing unusual: catch all that is a "
        "`jwt.PyJWTError`, and refuse it.",
    ),
    Reason(
        "forged_tokens_are_refused",
        "for a token without an expiry",
        "a token without `exp` would be good for ever. `jwt.decode` takes it, "
        "unless its `options` require the claim.",
    ),
    Reason(
        "token_may_come_in_four_ways",
        "HTTP 403 instead of 101",
        "a client without `Origin` was refused. Only browsers send it: without it "
        "there is no page that could use its visitor's cookie.",
    ),
    Reason(
        "token_may_come_in_four_ways",
        "closed with 1011",
        "the server could not go on after the handshake. Does `admit`, a plain "
        "function, return the identity, also at its end?",
    ),
    Reason(
        "strangers_are_refused_with_http",
        "HTTP 101 instead of 401",
        "a stranger got a socket. `admit` is the moment to refuse, while there is "
        "none: `raise Refused(...)`. `member.end` closes one that is open.",
    ),
    Reason(
        "strangers_are_refused_with_http",
        r"HTTP (?!101|500)\d+ instead of 401",
        "the status says what the client may do. 401: come with a new token. 403: "
        "do not come back, as the answer will not change.",
    ),
    Reason(
        "forged_tokens_are_refused",
        "HTTP 101 instead of 401 for a token (with alg none|signed with HS512)",
        "the token chose how it is checked. Its head is written by the sender, so "
        "name the one algorithm yourself.",
    ),
    Reason(
        "forged_tokens_are_refused",
        "HTTP 101 instead of 401 for a token (signed|with)",
        SIGNATURE,
    ),
    Reason(
        "forged_tokens_are_refused",
        "for a token that has expired",
        "an expired token was accepted. A token cannot be taken back: its expiry "
        "is all that ends what a thief, or a former user, can do with it.",
    ),
    Reason(
        "token_may_come_in_four_ways",
        "HTTP 401 instead of 101",
        "a good token was not found. There are four ways in, since a script in a "
        "browser can set no header: take the first that `tokens(request)` yields.",
    ),
    Reason(
        "token_may_come_in_four_ways",
        "was taken for",
        "a request may bring several tokens, and the first counts, in the order of "
        "`tokens(request)`.",
    ),
    Reason(
        "pages_of_other_sites_are_refused",
        "HTTP 101 instead of 403 for http://elsewhere.example",
        "any page may open a WebSocket to any host, and the browser sends the "
        "visitor's cookie along. Only `Origin` says which page it was.",
    ),
    Reason(
        "pages_of_other_sites_are_refused",
        "HTTP 101 instead of 403 for http",
        "a part of a name is not the name: anyone can register a domain that "
        "begins or ends like yours. Compare the whole origin.",
    ),
    Reason(
        "pages_of_other_sites_are_refused",
        "HTTP 101 instead of 403 for null",
        "the text `null` is not a missing header: it is the origin of a page in a "
        "sandbox, of whichever site.",
    ),
    Reason(
        "pages_of_other_sites_are_refused",
        "answered HTTP 403",
        "the server's own page was refused. An origin is a scheme, `://`, and what "
        "the header `Host` says; the scheme may be `http` or `https`.",
    ),
    Reason(
        "pages_of_other_sites_are_refused",
        "HTTP 401 instead of 403",
        "the cookie's token was good, and the page was not. 401 would send the "
        "client for a new token, which does not help it: this is a 403.",
    ),
    Reason(
        "expired_token_ends_its_connection",
        "in vain for the end",
        "the expiry was looked at in the handshake, and never again. Begin a timer "
        "in `opened`. It takes the seconds that are left: `expires` is a time of "
        "the clock `time.time()`.",
    ),
    Reason(
        "expired_token_ends_its_connection",
        "instead of 4401",
        "the code says what the client may do. 4401: come with a new token. With "
        "another it may come back at once, and again and again.",
    ),
    Reason(
        "ended_connection_is_not_held",
        "is held",
        "a connection that is over stays in memory, until its token expires. Its "
        "timer holds it: keep it in `member.expiry`, and cancel it in `released`. "
        "And keep no member yourself.",
    ),
    Reason(
        "new_token_is_for_the_same_user",
        "was answered echo",
        "a refresh got no answer of its own: return `Refreshed` with the new expiry.",
    ),
    Reason(
        "new_token_is_for_the_same_user",
        "expires of refreshed",
        "the answer has the expiry of the new token, so that the client knows when "
        "to send the next.",
    ),
    Reason(
        "new_token_is_for_the_same_user",
        "closed with 4401 before",
        OLD_TIMER,
    ),
    Reason(
        "new_token_is_for_the_same_user",
        "at the expiry of a new token",
        "a connection outlived its new token: after a refresh, too, a timer must "
        "wait for the expiry.",
    ),
    Reason(
        "new_token_is_for_the_same_user",
        "with another user's token",
        "a connection took another user's token. Whoever gets hold of one would go "
        "on in that name: compare the new user with that of `member.identity`.",
    ),
    Reason(
        "new_token_is_for_the_same_user",
        "with a forged token",
        "a new token is checked like the first: it comes from the client.",
    ),
)
