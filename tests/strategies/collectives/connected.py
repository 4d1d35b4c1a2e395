"""Channels of ranks in one process."""

import socket

from strategies.collectives.socket_channel import SocketChannel


def connected(world_size: int, *, limit_s: float = 30.0) -> list[SocketChannel]:
    links: list[dict[int, socket.socket]] = [{} for _ in range(world_size)]
    for low in range(world_size):
        for high in range(low + 1, world_size):
            pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            links[low][high], links[high][low] = pair
    return [SocketChannel(rank, own, limit_s=limit_s) for rank, own in enumerate(links)]
