"""Wrong solutions of chapter 2, and how their explanations begin."""

from __future__ import annotations

from tests.support.wrongs.wrong import Wrong

ORIGIN = 'origin not in (None, f"http://{host}", f"https://{host}")'

REFUSED = 'raise Refused(401, "a valid token is needed")'

DECODE = 'jwt.decode(token, self.secret, ["HS256"], options=needed)'

FIRST = 'next(tokens(request), "")'

OTHERS = "identity is None or identity.user != member.identity.user"

ENDED = "member.end(TOKEN_EXPIRED)\n            return None"

AGAIN = "        self.opened(member)\n        return"

TIMER = "member.expiry = member.loop"

WRONGS: tuple[Wrong, ...] = (
    Wrong("no default", "`next` raises", ((FIRST, "next(tokens(request))"),)),
    Wrong(
        "refused after the upgrade",
        "once there is a socket",
        ((ENDED, 'raise Refused(401, "another token")'),),
    ),
    Wrong(
        "nobody catches",
        "what is raised for a bad token",
        (("except jwt.PyJWTError", "except ZeroDivisionError"),),
    ),
    Wrong(
        "one error is caught",
        "what is raised for a bad token",
        (("except jwt.PyJWTError", "except jwt.ExpiredSignatureError"),),
    ),
    Wrong("no expiry", "a token without `exp`", (('["sub", "exp"]', '["sub"]'),)),
    Wrong(
        "no Origin, no entry",
        "a client without `Origin`",
        ((ORIGIN, ORIGIN.replace("None, ", "")),),
    ),
    Wrong(
        "no identity",
        "the server could not go on",
        (("        return identity\n", ""),),
    ),
    Wrong(
        "a socket for strangers",
        "a stranger got a socket",
        ((REFUSED, "return Identity()"), ("left = ", "left = 1 or ")),
        """

    def opened(self, member) -> None:
        if member.identity.expires is None:
            member.end(TOKEN_EXPIRED)
""",
    ),
    Wrong(
        "an end in the handshake",
        "a stranger got a socket",
        ((REFUSED, "return member.end(TOKEN_EXPIRED)"),),
    ),
    Wrong("403 for 401", "the status says", (("Refused(401", "Refused(403"),)),
    Wrong("404 for 401", "the status says", (("Refused(401", "Refused(404"),)),
    Wrong(
        "the token's own algorithm",
        "the token chose",
        (('["HS256"]', '[jwt.get_unverified_header(token)["alg"]]'),),
    ),
    Wrong(
        "alg none",
        "the token chose",
        (
            (
                DECODE,
                """jwt.decode(
                token,
                self.secret,
                ["HS256"],
                options={
                    **needed,
                    "verify_signature": jwt.get_unverified_header(token)["alg"]
                    != "none",
                },
            )""",
            ),
        ),
    ),
    Wrong(
        "no signature",
        "nobody looked at the signature",
        ((DECODE, 'jwt.decode(token, options={"verify_signature": False})'),),
    ),
    Wrong(
        "expired",
        "an expired token was accepted",
        (("options=needed", 'options={**needed, "verify_exp": False}'),),
    ),
    Wrong(
        "the header only",
        "a good token was not found",
        ((FIRST, 'request.headers.get("Authorization", " ").split(" ")[1]'),),
    ),
    Wrong(
        "the query only",
        "a good token was not found",
        ((FIRST, 'request.path.partition("token=")[2]'),),
    ),
    Wrong(
        "the last token",
        "a request may bring several",
        ((FIRST, '["", *tokens(request)][-1]'),),
    ),
    Wrong("any page", "any page may open", ((ORIGIN, "False"),)),
    Wrong(
        "the beginning of a name",
        "a part of a name",
        ((ORIGIN, 'origin and not origin.startswith(f"http://{host}")'),),
    ),
    Wrong(
        "the end of a name",
        "a part of a name",
        ((ORIGIN, "origin and not origin.endswith(host)"),),
    ),
    Wrong(
        "somewhere in it",
        "a part of a name",
        ((ORIGIN, "origin and host not in origin"),),
    ),
    Wrong(
        "null",
        "the text `null`",
        ((ORIGIN, ORIGIN.replace("None", "None, 'null'")),),
    ),
    Wrong(
        "no scheme",
        "the server's own page",
        ((ORIGIN, "origin not in (None, host)"),),
    ),
    Wrong("401 for 403", "the cookie's token", (("Refused(403", "Refused(401"),)),
    Wrong(
        "never again",
        "the expiry was looked at",
        ((f"{TIMER}.call_later", "print"),),
    ),
    Wrong(
        "another clock",
        "the expiry was looked at",
        (("- time.time()", "- time.monotonic()"),),
    ),
    Wrong(
        "another code",
        "the code says",
        (
            ("import TOKEN_EXPIRED", "import NORMAL, TOKEN_EXPIRED"),
            ("member.end, TOKEN_EXPIRED", "member.end, NORMAL"),
        ),
    ),
    Wrong(
        "not cancelled",
        "a connection that is over",
        (("member.expiry.cancel()", "pass"),),
    ),
    Wrong("not kept", "a connection that is over", ((TIMER, "member.loop"),)),
    Wrong("no answer", "a refresh got no answer", (("return Refreshed", "Refreshed"),)),
    Wrong(
        "no expiry in the answer",
        "the answer has the expiry",
        (("Refreshed(identity.expires)", "Refreshed(None)"),),
    ),
    Wrong(
        "two timers",
        "the old token ended",
        (("        self.released(member)  # the timer of the old token\n", ""),),
    ),
    Wrong(
        "the old identity",
        "the old token ended",
        (("        member.identity = identity\n", ""),),
    ),
    Wrong("no new timer", "a connection outlived", ((AGAIN, "        return"),)),
    Wrong(
        "anybody's token",
        "a connection took another",
        ((OTHERS, "identity is None"),),
    ),
    Wrong(
        "a refresh that checks nothing",
        "a new token is checked",
        (
            (
                "identity = self.verified(token)\n        if",
                'claims = jwt.decode(token, options={"verify_signature": False})\n'
                "        identity = identity_of(claims)\n        if",
            ),
        ),
    ),
)
