"""nmt-serve: trained models behind HTTP."""

from __future__ import annotations

import argparse
import gc
import os
import socket
from contextlib import ExitStack
from importlib.util import find_spec
from typing import Annotated

from pydantic import Field

from nmt.cli.common import command, naming_flags
from nmt.cli.options import Parser, machine_options, of_type
from nmt.config.schema import Positive
from nmt.errors import ConfigError, reason
from nmt.serve.limits import Limits

DESCRIPTION = """Translates for HTTP clients: a JSON API with n-best lists, scores and attention, and the API of
LibreTranslate. Sentences of all clients are translated in common batches. Models are told apart by their languages, and
those with the same languages by the name of their run's folder. Ends at SIGTERM, after the requests in progress."""
EPILOG = """Listens on this machine alone, unless --host names another address. The server has no TLS: put a reverse
proxy before it where others can reach it, and use --api-keys. /openapi.json describes the API."""

BACKLOG = 2048
"""Connections that wait to be accepted."""
Port = Annotated[int, Field(ge=0, le=65_535)]
LIMITS = (
    ("--max-body", "body", "bytes of a request's body"),
    ("--max-characters", "characters", "characters of a request"),
    ("--max-sentences", "sentences", "sentences of a request"),
    ("--max-pieces", "pieces", "pieces of a sentence"),
    ("--max-queue", "queue", "sentences that wait for a model; beyond it clients are told to come back"),
    ("--max-connections", "connections", "open connections"),
    ("--timeout", "seconds", "seconds until a request is given up"),
)


@command
def main() -> int:
    parser = _parser()
    options = parser.parse_args()
    machine_options(options)
    limits = Limits(**{name: getattr(options, name) for _, name, _ in LIMITS})
    if limits.queue < limits.sentences:
        parser.error(f"--max-queue: must be --max-sentences ({limits.sentences}) at least; no request would fit")
    if missing := [name for name in ("fastapi", "uvicorn", "prometheus_client") if find_spec(name) is None]:
        raise ConfigError(f"{', '.join(missing)}: not installed; pip install 'nmt-attention[serve]'")
    return _serve(options, limits)


def _parser() -> Parser:
    parser = Parser("nmt-serve", DESCRIPTION, EPILOG)
    add = parser.add_argument
    text = "run folder, checkpoint, or hf://USER/NAME of the Hugging Face hub; may be repeated"
    add("--model", action="append", required=True, metavar="PATH", help=text)
    parser.add_checkpoint_option()
    add("--host", default="127.0.0.1", metavar="ADDRESS", help="address to listen on (default: 127.0.0.1)")
    parser.add_number_option("--port", Port, 5000, "port to listen on; 0 takes a free one")
    add("--api-keys", metavar="FILE", help="file with a key a line, one of which each client must send")
    for flag, name, text in LIMITS:
        parser.add_argument(
            flag,
            dest=name,
            type=of_type(Positive),
            default=int(getattr(Limits, name)),
            metavar="N",
            help=f"{text} (default: {int(getattr(Limits, name)):,})",
        )
    parser.add_machine_options()
    return parser


@naming_flags()
def _serve(options: argparse.Namespace, limits: Limits) -> int:
    # Imported late: mistakes in the arguments do not wait for PyTorch.
    from nmt.runtime import logger, set_up, set_up_logging
    from nmt.serve.application import build_application
    from nmt.serve.connections import build_server
    from nmt.serve.keys import Keys
    from nmt.serve.models import Models
    from nmt.serve.monitoring import Metrics
    from nmt.tasks.plugins import load_plugins

    set_up_logging(None, is_main=True)
    load_plugins(options.plugin)
    keys = Keys.read(options.api_keys) if options.api_keys else Keys([])
    with _bound(options.host, options.port) as listener:
        runtime, metrics = set_up(machine_options(options)), Metrics()
        models = Models.load(options.model, options.checkpoint, runtime, limits, metrics)
        server = build_server(build_application(models, limits, keys, metrics), limits)
        for model in models.all:
            logger.info("%s: %s to %s", model.name, model.source, model.target)
        listener.listen(BACKLOG)
        address, port = listener.getsockname()[:2]
        shown = f"[{address}]" if ":" in address else address
        # The garbage collector would go through all objects of PyTorch again and again.
        gc.freeze()
        logger.info("listening on http://%s:%d", shown, port)
        server.run(sockets=[listener])
        models.close()
    return 0


def _bound(host: str, port: int) -> socket.socket:
    """Returns a socket that is bound and does not listen yet; raises `ConfigError`."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with ExitStack() as stack:
            listener = stack.enter_context(socket.socket(family, kind, protocol))
            if os.name == "posix":
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            stack.pop_all()
    except OSError as error:
        raise ConfigError(f"--host {host} --port {port}: {reason(error)}; choose others") from error
    return listener


if __name__ == "__main__":
    main()
