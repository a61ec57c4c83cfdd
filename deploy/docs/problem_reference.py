"""Problem types: code, status, when a retry makes sense, and what to do."""

from contracts.problem_advice import ADVICE
from contracts.problems import CONTENT_TYPE, PROBLEM_TYPES
from deploy.docs.markdown import code, table


def page() -> str:
    rows = (
        (
            f"{code(kind.code)}",
            kind.status,
            kind.title,
            f"after {kind.retry_after_seconds} s" if kind.retry_after_seconds else "",
            ADVICE.get(kind.code, ""),
        )
        for kind in sorted(PROBLEM_TYPES, key=lambda one: (one.status, one.code))
    )
    return "\n".join(
        [
            "# Problems\n",
            (
                f"Every error of both services is a problem of RFC 9457, `{CONTENT_TYPE}`, over NATS too: `type`"
                " (`urn:usage-ledger:problem:` and the code with dashes), `title`, `status`, `code`, `detail` and,"
                " where rules are broken, `errors` with `field`, `rule` and `message` of each. Decide by `code`.\n"
            ),
            table(("code", "status", "title", "again", "what to do"), rows),
        ]
    )
