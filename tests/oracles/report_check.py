"""Python's email package as the reader of delivery reports (RFC 3464).

Reads a message from standard input, writes JSON: its headers, the types of its parts, the
per-message and per-recipient fields, the human part and the headers of the returned message.
"""

import email
import email.policy
import json
import sys

message = email.message_from_bytes(sys.stdin.buffer.read(), policy=email.policy.SMTP)
parts = list(message.iter_parts()) if message.is_multipart() else []
result = {
    "type": message.get_content_type(),
    "report-type": message.get_param("report-type"),
    "from": str(message["From"]),
    "to": str(message["To"]),
    "subject": str(message["Subject"]),
    "auto-submitted": str(message["Auto-Submitted"]),
    "message-id": str(message["Message-ID"]),
    "date": str(message["Date"]),
    "parts": [part.get_content_type() for part in parts],
    "defects": [type(defect).__name__ for part in [message, *parts] for defect in part.defects],
    "text": "",
    "message": {},
    "recipients": [],
    "returned": {},
    "returned-body": None,
}
for part in parts:
    kind = part.get_content_type()
    if kind == "text/plain" and not result["text"]:
        result["text"] = part.get_content()
    elif kind in ("message/delivery-status", "message/global-delivery-status"):
        blocks = [{name.lower(): str(value) for name, value in block.items()} for block in part.get_payload()]
        blocks = [block for block in blocks if block]
        result["message"], result["recipients"] = blocks[0], blocks[1:]
    elif kind in ("message/rfc822", "message/global"):
        inner = part.get_payload(0)
        result["returned"] = {name.lower(): str(value) for name, value in inner.items()}
        result["returned-body"] = inner.as_bytes().partition(b"\r\n\r\n")[2].decode("latin-1")
    elif kind in ("text/rfc822-headers", "message/global-headers"):
        inner = email.message_from_string(part.get_content())
        result["returned"] = {name.lower(): str(value) for name, value in inner.items()}
json.dump(result, sys.stdout)
