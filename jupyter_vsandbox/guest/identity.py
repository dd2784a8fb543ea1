"""What a machine must do after it was restored, before the first cell runs.

A restored machine believes it is still the moment, and the machine, that was saved. See
``random(4)``, ``clock_settime(2)``, ``netdevice(7)`` and ``machine-id(5)``.
"""

import fcntl
import os
import socket
import struct
import time

RNDADDENTROPY = 0x40085203
RNDRESEEDCRNG = 0x5207
SIOCSIFHWADDR = 0x8924
SIOCGIFADDR = 0x8915
ARPHRD_ETHER = 1
ETH_P_IP = 0x0800
ETH_P_ARP = 0x0806


def set_clock(seconds):  # type: (float) -> None
    """Set the wall clock to `seconds` since the epoch."""
    time.clock_settime(time.CLOCK_REALTIME, seconds)


def feed_entropy(entropy):  # type: (bytes) -> None
    """Mix `entropy` into the kernel's random generator and make it take effect at once.

    Without this, clones of one memory image draw the same ``urandom`` bytes.
    """
    device = os.open("/dev/urandom", os.O_WRONLY | os.O_CLOEXEC)
    try:
        pool_info = struct.pack("=ii", len(entropy) * 8, len(entropy)) + entropy
        fcntl.ioctl(device, RNDADDENTROPY, pool_info)
        fcntl.ioctl(device, RNDRESEEDCRNG)
    finally:
        os.close(device)


def set_hostname(name):  # type: (str) -> None
    """Name this machine, resolvable without a name server (a kernel start waits for that)."""
    socket.sethostname(name)
    _replace("/etc/hostname", name + "\n")
    _replace("/etc/hosts", "127.0.0.1 localhost\n127.0.1.1 " + name + "\n::1 localhost\n")


def set_machine_id(machine_id):  # type: (str) -> None
    """Write the 32 hexadecimal digits that tell this installation from all others."""
    _replace("/etc/machine-id", machine_id + "\n")


def set_mac(address):  # type: (str) -> None
    """Give the first network card the MAC `address`, written as ``52:54:00:..``."""
    names = sorted(n for n in os.listdir("/sys/class/net") if n.startswith(("en", "eth")))
    if not names:
        return
    name = names[0].encode()
    packed = bytes(int(part, 16) for part in address.split(":"))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFHWADDR, struct.pack("16sH6s8x", name, ARPHRD_ETHER, packed))
        try:
            answer = fcntl.ioctl(any_socket, SIOCGIFADDR, struct.pack("16s16x", name))
        except OSError:
            return  # no address yet, so nobody to tell
    _announce(names[0], packed, answer[20:24])


def _announce(name, mac, address):  # type: (str, bytes, bytes) -> None
    """Tell the neighbours, by gratuitous ARP (RFC 5227), that `address` has a new `mac`.

    Else they go on sending to the old one, and connections hang.
    """
    frame = b"\xff" * 6 + mac + struct.pack(">HHHBBH", ETH_P_ARP, ARPHRD_ETHER, ETH_P_IP, 6, 4, 1)
    frame += mac + address + bytes(6) + address
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind((name, ETH_P_ARP))
        raw.send(frame)


def _replace(path, text):  # type: (str, str) -> None
    temporary = path + ".vsandbox"
    with open(temporary, "w") as file:
        file.write(text)
    os.rename(temporary, path)
