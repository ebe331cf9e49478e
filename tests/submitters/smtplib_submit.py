"""Python's smtplib as a submitter.

Reads JSON from standard input: {"host", "port", "tls": "none" | "starttls" | "implicit", "name", "authority",
"user", "password", "messages": [{"sender", "recipients", "content": base64, "options": [...]}]}.
Writes JSON: for each message the reply to its last command as [code, text].
"""

import base64
import json
import smtplib
import ssl
import sys

task = json.load(sys.stdin)
context = None
if task["tls"] != "none":
    context = ssl.create_default_context(cafile=task["authority"])


class Named:
    """Checks the certificate against the name, though an address is connected to."""

    def wrap_socket(self, sock, server_hostname=None, **rest):
        return context.wrap_socket(sock, server_hostname=task["name"], **rest)


if task["tls"] == "implicit":
    server = smtplib.SMTP_SSL(task["host"], task["port"], context=Named(), timeout=30)
else:
    server = smtplib.SMTP(task["host"], task["port"], timeout=30)
    if task["tls"] == "starttls":
        server.starttls(context=Named())
server.ehlo()
if task.get("user"):
    server.login(task["user"], task["password"])
replies = []
for message in task["messages"]:
    code, text = server.mail(message["sender"], message.get("options", []))
    for recipient in message["recipients"] if code == 250 else []:
        code, text = server.rcpt(recipient, message.get("recipient-options", []))
        if code // 100 != 2:
            break
    if code // 100 == 2:
        code, text = server.data(base64.b64decode(message["content"]))
    else:
        server.rset()
    replies.append([code, text.decode("utf-8", "replace")])
server.quit()
json.dump(replies, sys.stdout)
