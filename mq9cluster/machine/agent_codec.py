"""How the agents' commands travel: cards, codes and heartbeats as they are, no JSON around them.

Called by `codec`, which puts the kind before the reference and what stands behind it.
"""

import struct

from mq9cluster.domain.command import RegisterAgent, ReportAgent, SetAgentCode
from mq9cluster.machine.agent_rows import pack_codes, unpack_codes

_REGISTER = struct.Struct(">IHHI")  # ttl, address, codes, body
_SET_CODE = struct.Struct(">HH")  # digest, embedder


def encode_register(command: RegisterAgent) -> tuple[bytes, bytes]:
    """(reference, the rest)."""
    ref, address, ttl_s, body, codes = command
    head = _REGISTER.pack(ttl_s, len(address.encode()), len(codes), len(body))
    return ref, b"".join((head, address.encode(), body, pack_codes(codes)))


def decode_register(ref: bytes, data: bytes) -> RegisterAgent:
    """Raises struct.error, ValueError."""
    ttl_s, address_bytes, count, body_bytes = _REGISTER.unpack_from(data)
    at = _REGISTER.size
    address = data[at : (at := at + address_bytes)].decode()
    body = data[at : (at := at + body_bytes)]
    return RegisterAgent(ref, address, ttl_s, body, tuple(unpack_codes(data, at, count)))


def encode_report(command: ReportAgent) -> tuple[bytes, bytes]:
    """(reference, the rest)."""
    return command


def decode_report(ref: bytes, data: bytes) -> ReportAgent:
    """What `encode_report` wrote."""
    return ReportAgent(ref, data)


def encode_set_code(command: SetAgentCode) -> tuple[bytes, bytes]:
    """(reference, the rest)."""
    ref, digest, embedder, code = command
    name = embedder.encode()
    return ref, b"".join((_SET_CODE.pack(len(digest), len(name)), digest, name, code))


def decode_set_code(ref: bytes, data: bytes) -> SetAgentCode:
    """Raises struct.error, ValueError."""
    digest_bytes, name_bytes = _SET_CODE.unpack_from(data)
    at = _SET_CODE.size
    digest = data[at : (at := at + digest_bytes)]
    embedder = data[at : (at := at + name_bytes)].decode()
    if at > len(data):
        raise ValueError(f"a code at {at} in {len(data)} bytes")
    return SetAgentCode(ref, digest, embedder, data[at:])
