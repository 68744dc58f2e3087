"""What the host of the LAN does (on-a-lan): ip netns exec lan python3 lan-host.py WHAT [ADDRESS [PORT]]"""

import socket
import struct
import sys

PATIENCE = 60  # seconds; nothing takes nearly as long


def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


def serve():
    """Answers every TCP connection with what it said, in capitals."""
    listener = socket.create_server(("192.168.50.1", 7000))
    print("ready", flush=True)
    while True:
        client, _ = listener.accept()
        client.sendall(client.recv(100).upper())
        client.close()


def ask(address, port):
    """Says hello over TCP and prints the answer's beginning."""
    with socket.create_connection((address, int(port)), timeout=PATIENCE) as stream:
        stream.sendall(b"hello")
        print(stream.recv(8).decode())


def ping(address):
    echo = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    echo.settimeout(PATIENCE)
    message = struct.pack("!BBHHH4s", 8, 0, 0, 7, 1, b"ping")
    echo.sendto(message[:2] + struct.pack("!H", checksum(message)) + message[4:], (address, 0))
    while True:
        packet, source = echo.recvfrom(2048)
        if source[0] == address and packet[20] == 0:
            return print("pong")


def watch():
    """Prints the source MAC and the type of every frame that comes."""
    frames = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    frames.bind(("card", 0))
    print("ready", flush=True)
    while True:
        frame, origin = frames.recvfrom(2048)
        if origin[2] != socket.PACKET_OUTGOING:
            print(frame[6:12].hex(":"), frame[12:14].hex(), flush=True)


{"serve": serve, "ask": ask, "ping": ping, "watch": watch}[sys.argv[1]](*sys.argv[2:])
