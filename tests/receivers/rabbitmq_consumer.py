"""A consumer at RabbitMQ, by pika: declares an exchange and a queue bound to it, then prints each
message as a line of JSON and acknowledges it. Arguments: host, port, exchange, binding key."""

import json
import sys

import pika

host, port, exchange, key = sys.argv[1:]
connection = pika.BlockingConnection(pika.ConnectionParameters(host=host, port=int(port)))
channel = connection.channel()
channel.exchange_declare(exchange, exchange_type="topic", durable=True)
channel.queue_declare("events", durable=True)
channel.queue_bind("events", exchange, key)
print(json.dumps("ready"), flush=True)
for method, properties, body in channel.consume("events"):
    print(json.dumps({
        "key": method.routing_key,
        "id": properties.message_id,
        "type": properties.type,
        "mode": properties.delivery_mode,
        "body": json.loads(body),
    }), flush=True)
    channel.basic_ack(method.delivery_tag)
