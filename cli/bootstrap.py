"""swarm-bootstrap: a well-known address at which others find the swarm. Runs the relay service too, which no command asks for yet. Needs no model."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from typing import Any

from swarm.cli.arguments import Parser, addresses, check_addresses, number
from swarm.cli.members import COMMANDS, run_command
from swarm.cli.notices import config_dir, introduce
from swarm.cli.process import Stop, hold_lifeline, reporting, run, set_logging, tell_ready
from swarm.cli.screen import Screen, screen

PORT = 31337

EXAMPLES = """\
  swarm-bootstrap                                                  on a machine that others can reach
  swarm-bootstrap --announce /dns4/swarm.example.org/tcp/31337     behind a name or a forwarded port
a private swarm (each has a --help of its own):
  swarm-bootstrap keygen our.key                                   make its key
  swarm-bootstrap --swarm-key our.key                              its entrance
  swarm-bootstrap invite PEER_ID --swarm-key our.key               let somebody in
  swarm-bootstrap revoke PEER_ID --swarm-key our.key               and out
"""


def parser() -> Parser:
    it = Parser("swarm-bootstrap", "Run a peer that only helps others find the swarm. A peer behind a router still needs its own port forwarded.", EXAMPLES)
    group = it.add_argument_group("network")
    group.add_argument("--host", default="0.0.0.0", help="IP address to listen on; 127.0.0.1 for this machine alone")
    group.add_argument("--port", type=number(0, 65535), default=PORT, help="TCP port to listen on, 0 for any free one")
    group.add_argument("--announce", action="append", metavar="ADDR", help="multiaddr to tell others instead of those found here (repeatable)")
    group.add_argument(
        "--initial-peers", action="append", metavar="ADDR", help="multiaddr of another peer, to join its swarm (repeatable); without any, one begins here"
    )
    group.add_argument("--identity", metavar="FILE", help="key file; kept, so that the address stays the same (default: ~/.config/swarm/bootstrap.key)")
    group.add_argument("--swarm-key", metavar="FILE", help="key of a private swarm, or its invitation for this --identity: members alone are let in")
    it.common()
    return it


def main(argv: Sequence[str] | None = None) -> int:
    return reporting("swarm-bootstrap", argv, _main)


def _main(argv: Sequence[str] | None) -> int:
    given = sys.argv[1:] if argv is None else list(argv)
    if given and given[0] in COMMANDS:
        return run_command(given[0], given[1:])
    args = parser().read(argv)
    check_addresses(addresses(args.initial_peers), addresses(args.announce))
    hold_lifeline(args.lifeline_fd)
    shown = screen()
    set_logging(args.debug, shown.handler)
    identity = args.identity or _own_key()
    return run(lambda stop: _serve(args, identity, shown, stop), leave_at_once=True)


def _own_key() -> str:
    folder = config_dir()
    with contextlib.suppress(OSError):  # whoever opens the key file says what is wrong
        folder.mkdir(parents=True, exist_ok=True)
    return str(folder / "bootstrap.key")


async def _serve(args: Any, identity: str, shown: Screen, stop: Stop) -> int:
    from swarm.compose import connect

    joining = connect(
        addresses(args.initial_peers),
        identity=identity,
        listen=True,
        host=args.host,
        port=args.port,
        announce=addresses(args.announce),
        serve_relay=True,
        swarm_key=args.swarm_key,
        debug=args.debug,
    )
    async with joining as connection:
        _introduce(shown, connection.addrs)
        tell_ready(args.ready_fd, {"peer_id": connection.links.peer, "addrs": list(connection.addrs), "layers": ""})
        await stop.asked(connection.failed)
        shown.say("leaving")
    shown.say("left")
    return 0


def _introduce(shown: Screen, addrs: Sequence[str]) -> None:
    shown.say("This machine is an entrance to the swarm. Its addresses, the most public first:")
    for addr in addrs:
        shown.say(f"  {addr}")
    introduce(shown.say, addrs)
    shown.say("Ctrl-C leaves.")


if __name__ == "__main__":
    raise SystemExit(main())
