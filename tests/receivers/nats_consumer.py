"""A consumer at NATS JetStream, by nats-py: makes a stream of the subjects, then prints each message
as a line of JSON and acknowledges it. Arguments: address of the server, subjects of the stream; and for
TLS a file with roots, user and password."""

import asyncio
import json
import ssl
import sys

import nats


async def main(server, subjects, roots=None, user=None, password=None):
    options = {"tls": ssl.create_default_context(cafile=roots), "user": user, "password": password} if roots else {}
    client = await nats.connect(server, **options)
    stream = client.jetstream()
    await stream.add_stream(name="events", subjects=[subjects])
    subscription = await stream.subscribe(subjects, durable="reader")
    print(json.dumps("ready"), flush=True)
    async for message in subscription.messages:
        print(json.dumps({
            "subject": message.subject,
            "id": message.headers["Nats-Msg-Id"],
            "body": json.loads(message.data),
        }), flush=True)
        await message.ack()


asyncio.run(main(*sys.argv[1:]))
