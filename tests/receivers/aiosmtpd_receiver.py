"""aiosmtpd as a receiver: keeps every message as one JSON line.

Arguments: address, port, file to append to, certificate, key.
"""

import asyncio
import base64
import json
import ssl
import sys

from aiosmtpd.smtp import SMTP


class Keeper:
    def __init__(self, path):
        self.file = open(path, "a", encoding="utf-8")

    async def handle_DATA(self, server, session, envelope):
        line = {
            "sender": envelope.mail_from,
            "recipients": envelope.rcpt_tos,
            "options": envelope.mail_options,
            "tls": session.ssl is not None,
            "content": base64.b64encode(envelope.original_content).decode(),
        }
        self.file.write(json.dumps(line) + "\n")
        self.file.flush()
        return "250 2.0.0 Ok"


async def main(address, port, path, certificate, key):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    keeper = Keeper(path)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: SMTP(
            keeper,
            data_size_limit=50 << 20,
            enable_SMTPUTF8=True,
            hostname="mx.aiosmtpd.test",
            tls_context=context,
            loop=loop,
        ),
        address,
        int(port),
    )
    async with server:
        await server.serve_forever()


asyncio.run(main(*sys.argv[1:]))
