"""Prints, as JSON, the gRPC status that Ray's port answers a request for its hosts with, without and with the token."""

from __future__ import annotations

import json
import sys

import grpc

METHOD = "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo"


def status(address: str, token: str | None) -> str:
    with grpc.insecure_channel(address) as channel:
        metadata = [("authorization", f"Bearer {token}")] if token else None
        try:
            channel.unary_unary(METHOD)(b"", timeout=20, metadata=metadata)
        except grpc.RpcError as error:
            return str(error.code().name)
        return "OK"


if __name__ == "__main__":
    where, right = sys.argv[1:]
    print(json.dumps([status(where, token) for token in (None, "0" * 64, right)]))
