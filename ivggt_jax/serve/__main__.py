"""`python -m ivggt_jax.serve`: follows cameras and videos live, over WebSockets."""

from collections.abc import Sequence

from ivggt_jax.runs.address import web_address
from ivggt_jax.runs.command import run_command, say
from ivggt_jax.serve.options import ServeConfig, is_loopback


def main(arguments: Sequence[str] | None = None, program: str = "python -m ivggt_jax.serve") -> None:
    """The command line program."""
    run_command(ServeConfig, serve, arguments, program)


def serve(config: ServeConfig) -> int:
    """Follow cameras live: a WebSocket for programs, and a page that sends the browser's camera (docs/live.md)."""
    if not config.token and not is_loopback(config.host):
        raise ValueError(f"--host {config.host} lets other machines in: give a --token that clients must send")
    try:
        from ivggt_jax.serve.application import create_application
        from ivggt_jax.serve.listen import create_server, listening_socket
        from ivggt_jax.serve.service import load_service
    except ImportError as error:
        raise ValueError(f"the server needs {error.name}: pip install 'ivggt_jax[serve]'") from error
    with listening_socket(config.host, config.port) as listener:  # reports a port in use before compiling
        service = load_service(config)
        server = create_server(create_application(service), config.limits)
        host, port = listener.getsockname()[:2]
        say(f"compiling; then {web_address(host, port)} answers, until Ctrl-C")
        server.run([listener])
    if service.worker.failed:
        say(f"error: {service.worker.failed}")
    return int(service.worker.failed is not None or not server.started)


if __name__ == "__main__":
    main()
