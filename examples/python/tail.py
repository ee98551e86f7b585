"""Writes a record and tails the topic, through gRPC.

    python -m grpc_tools.protoc -I proto --python_out=. --grpc_python_out=. proto/esker/v1/*.proto
    python examples/python/tail.py greetings hello
"""
import sys

import grpc
from esker.v1 import common_pb2, consumer_pb2, consumer_pb2_grpc, producer_pb2, producer_pb2_grpc

topic, text, address = (sys.argv + ["127.0.0.1:9094"])[1:4]
channel = grpc.insecure_channel(address)
record = common_pb2.Record(value=text.encode())
producer_pb2_grpc.ProducerStub(channel).Produce(producer_pb2.ProduceRequest(topic=topic, records=[record]))
begin = consumer_pb2.FetchOpen(partitions=[consumer_pb2.FetchFrom(topic=topic, partition=0)])
for answer in consumer_pb2_grpc.ConsumerStub(channel).Fetch(iter([consumer_pb2.FetchRequest(open=begin)])):
    for found in answer.data.records:
        print(found.offset, found.value.decode(), flush=True)
