"""Ports of this machine for the servers of commands."""

import socket

from atelier.core.errors import AtelierError

HOST = "127.0.0.1"
"""Address of all servers: only programs on this machine reach them."""

# Browsers refuse these ports of the ranges in which a free one is searched (WHATWG Fetch, "bad
# port"): they belong to other protocols.
_BLOCKED_PORTS = {5060, 5061}


def reserve(port: int, command: str) -> socket.socket:
    """Return a socket that listens on a port of this machine; no other program can take it.

    Browsers that connect before the server is ready wait for it.

    Args:
        port: the port.
        command: the command to type with another port, e.g. ``atelier live``.

    Raises:
        AtelierError: the port is in use. The message names the next free one.
    """
    reserved = socket.socket()
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        reserved.bind((HOST, port))
        # Two programs can bind one port with SO_REUSEADDR until one of them listens.
        reserved.listen()
    except OSError:
        reserved.close()
        require_free(port, command)
        raise
    return reserved


def require_free(port: int, command: str) -> None:
    """Raise if another program listens on a port of this machine.

    Args:
        port: the port.
        command: the command to type with another port, e.g. ``atelier ui``.

    Raises:
        AtelierError: the port is in use. The message names the next free one.
    """
    if _is_free(port):
        return
    candidates = range(port + 1, min(port + 100, 65536))
    free = next((p for p in candidates if p not in _BLOCKED_PORTS and _is_free(p)), 0)
    advice = f"type: {command} --port {free}" if free else "give another with --port"
    raise AtelierError(f"port {port} is in use by another program; {advice}")


def _is_free(port: int) -> bool:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
        except OSError:
            return False
    return True
