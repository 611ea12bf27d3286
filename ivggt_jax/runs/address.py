"""Where a server is to listen."""

import socket

LAST_PORT = 65535


def web_address(host: str, port: int) -> str:
    """The address of a page; one of IPv6 has brackets."""
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def check_port(port: int) -> None:
    """Raises ValueError for a number that is no port. The system would take another: the rest of a division by 65536."""
    if not 0 <= port <= LAST_PORT:
        raise ValueError(f"--port is a number from 0 to {LAST_PORT}, not {port}")


def check_address(host: str, port: int) -> None:
    """Raises ValueError for no port, and OSError for a host that is not this machine."""
    check_port(port)
    family, _, _, _, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
    with socket.socket(family) as trial:
        try:
            trial.bind(address)
        except OSError as error:
            raise OSError(f"cannot listen at {host}: {error.strerror}; --host takes another") from None
