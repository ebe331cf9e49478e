"""Checks signed requests as the Standard Webhooks specification says, with nothing but Python's own
modules: lines of JSON on standard input, each with id, timestamp, signature and body (base64).
Argument: the secret. Prints the number of good ones; exit status 1 when one is not."""

import base64
import hashlib
import hmac
import json
import sys

key = base64.b64decode(sys.argv[1].strip().removeprefix("whsec_"))
good = 0
for line in sys.stdin:
    request = json.loads(line)
    signed = f"{request['id']}.{request['timestamp']}.".encode() + base64.b64decode(request["body"])
    wanted = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    if request["signature"] != "v1," + wanted:
        sys.exit(f"not signed with this secret: {request['id']}")
    good += 1
print(good)
