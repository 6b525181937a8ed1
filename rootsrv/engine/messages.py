"""The part of etcd's messages that is used here (etcd's rpc.proto and kv.proto, API version 3)."""
# A name, a type and a number per field, as in etcd's own .proto files.  Enumerations are int32, which is the same on
# the wire; the members of a `oneof` are plain fields, of which one is set.  The pool is our own, so that nothing else
# in the process can have registered other messages by these names.

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_PACKAGE = "etcdserverpb"

_MESSAGES = {
    "ResponseHeader": "cluster_id:uint64=1 member_id:uint64=2 revision:int64=3 raft_term:uint64=4",
    "KeyValue": "key:bytes=1 create_revision:int64=2 mod_revision:int64=3 version:int64=4 value:bytes=5 lease:int64=6",
    "Event": "type:int32=1 kv:KeyValue=2",
    "RangeRequest": "key:bytes=1 range_end:bytes=2 limit:int64=3 revision:int64=4 serializable:bool=7",
    "RangeResponse": "header:ResponseHeader=1 kvs:*KeyValue=2 more:bool=3 count:int64=4",
    "PutRequest": "key:bytes=1 value:bytes=2 lease:int64=3",
    "PutResponse": "header:ResponseHeader=1",
    "DeleteRangeRequest": "key:bytes=1 range_end:bytes=2",
    "DeleteRangeResponse": "header:ResponseHeader=1 deleted:int64=2",
    "RequestOp": "request_range:RangeRequest=1 request_put:PutRequest=2 request_delete_range:DeleteRangeRequest=3"
    " request_txn:TxnRequest=4",
    "ResponseOp": "response_range:RangeResponse=1 response_put:PutResponse=2"
    " response_delete_range:DeleteRangeResponse=3",
    "Compare": "result:int32=1 target:int32=2 key:bytes=3 create_revision:int64=5 mod_revision:int64=6",
    "TxnRequest": "compare:*Compare=1 success:*RequestOp=2 failure:*RequestOp=3",
    "TxnResponse": "header:ResponseHeader=1 succeeded:bool=2 responses:*ResponseOp=3",
    "WatchCreateRequest": "key:bytes=1 range_end:bytes=2 start_revision:int64=3 progress_notify:bool=4",
    "WatchProgressRequest": "",
    "WatchRequest": "create_request:WatchCreateRequest=1 progress_request:WatchProgressRequest=3",
    "WatchResponse": "header:ResponseHeader=1 watch_id:int64=2 created:bool=3 canceled:bool=4 compact_revision:int64=5"
    " cancel_reason:string=6 events:*Event=11",
    "LeaseGrantRequest": "TTL:int64=1 ID:int64=2",
    "LeaseGrantResponse": "header:ResponseHeader=1 ID:int64=2 TTL:int64=3 error:string=4",
    "LeaseRevokeRequest": "ID:int64=1",
    "LeaseRevokeResponse": "header:ResponseHeader=1",
    "LeaseKeepAliveRequest": "ID:int64=1",
    "LeaseKeepAliveResponse": "header:ResponseHeader=1 ID:int64=2 TTL:int64=3",
    "StatusRequest": "",
    "StatusResponse": "header:ResponseHeader=1 version:string=2 dbSize:int64=3 leader:uint64=4 errors:*string=8"
    " dbSizeInUse:int64=9",
    "CompactionRequest": "revision:int64=1 physical:bool=2",
    "CompactionResponse": "header:ResponseHeader=1",
}

_SCALARS = {
    name: getattr(descriptor_pb2.FieldDescriptorProto, f"TYPE_{name.upper()}")
    for name in ("bool", "bytes", "int32", "int64", "string", "uint64")
}


def _file() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(name="rootsrv/etcd.proto", package=_PACKAGE, syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for text in fields.split():
            field_name, _, rest = text.partition(":")
            kind, _, number = rest.partition("=")
            repeated = kind.startswith("*")
            kind = kind.removeprefix("*")
            field = message.field.add(name=field_name, number=int(number))
            field.label = field.LABEL_REPEATED if repeated else field.LABEL_OPTIONAL
            if kind in _SCALARS:
                field.type = _SCALARS[kind]
            else:
                field.type, field.type_name = field.TYPE_MESSAGE, f".{_PACKAGE}.{kind}"
    return file


def _classes() -> dict[str, Any]:
    pool = descriptor_pool.DescriptorPool()
    pool.Add(_file())
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}")) for name in _MESSAGES
    }


MESSAGES = _classes()
"""Message classes by name."""


def make(name: str, **fields: Any) -> Any:
    """A message."""
    return MESSAGES[name](**fields)
