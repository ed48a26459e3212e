"""Sans-IO: bytes to events, subject and body to request, reply to bytes."""
