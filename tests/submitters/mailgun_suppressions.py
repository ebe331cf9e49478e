"""The Python client of Mailgun's makers, asking for suppressions and changing them.

Reads JSON from standard input: {"url", "token", "domain", "calls": [[resource, method, {argument: value}]]}.
Writes JSON: for each call [status, body].
"""

import json
import sys

from mailgun.client import Client

task = json.load(sys.stdin)
answers = []
with Client(auth=("api", task["token"]), api_url=task["url"]) as client:
    for resource, method, arguments in task["calls"]:
        response = getattr(getattr(client, resource), method)(domain=task["domain"], **arguments)
        answers.append([response.status_code, response.json()])
json.dump(answers, sys.stdout)
