"""A consumer at NATS JetStream, by nats-py: makes a stream of the subjects, then prints each message
as a line of JSON and acknowledges it. Arguments: address of the server, subjects of the stream."""

import asyncio
import json
import sys

import nats


async def main(server, subjects):
    client = await nats.connect(server)
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
