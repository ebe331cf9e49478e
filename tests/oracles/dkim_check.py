"""dkimpy as the judge of signatures.

Reads JSON from standard input: {"keys": {"selector._domainkey.domain.": "v=DKIM1; ..."}, "messages": [base64, ...]}.
Writes JSON: for each message a list of {"domain", "selector", "algorithm", "headers", "valid"}, one for each signature.
"""

import base64
import json
import sys

import dkim


def signatures(message, keys):
    def answer(name, timeout=5):
        name = name.decode() if isinstance(name, bytes) else name
        found = keys.get(name.rstrip(".") + ".")
        return found.encode() if found else None

    verifier = dkim.DKIM(message)
    count = sum(1 for name, _ in verifier.headers if name.lower() == b"dkim-signature")
    result = []
    for index in range(count):
        judge = dkim.DKIM(message)
        try:
            valid = judge.verify(idx=index, dnsfunc=answer)
            error = ""
        except dkim.DKIMException as problem:
            valid, error = False, str(problem)
        fields = judge.signature_fields
        result.append(
            {
                "domain": fields.get(b"d", b"").decode(),
                "selector": fields.get(b"s", b"").decode(),
                "algorithm": fields.get(b"a", b"").decode(),
                "headers": [name.strip().lower() for name in fields.get(b"h", b"").decode().split(":")],
                "valid": bool(valid),
                "error": error,
            }
        )
    return result


task = json.load(sys.stdin)
json.dump([signatures(base64.b64decode(message), task["keys"]) for message in task["messages"]], sys.stdout)
