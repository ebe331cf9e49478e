"""The Python client of Mailgun's makers as a submitter over HTTP.

Reads JSON from standard input: {"url", "token", "domain", "messages": [{"data": {...}, "files": [[field, name, base64]],
"mime": text or null}]}. Writes JSON: for each message [status, body].
"""

import base64
import json
import sys

from mailgun.client import Client

task = json.load(sys.stdin)
answers = []
with Client(auth=("api", task["token"]), api_url=task["url"]) as client:
    for message in task["messages"]:
        files = [(field, (name, base64.b64decode(content))) for field, name, content in message.get("files", [])]
        if message.get("mime") is not None:
            files.append(("message", ("message.eml", message["mime"].encode())))
            response = client.mimemessage.create(data=message["data"], files=files, domain=task["domain"])
        else:
            response = client.messages.create(data=message["data"], files=files or None, domain=task["domain"])
        answers.append([response.status_code, response.json()])
json.dump(answers, sys.stdout)
