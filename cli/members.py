"""Room: cli. The key of a private swarm: `swarm-bootstrap keygen | invite | revoke`. Reads arguments; what a member is and what is in the files, `swarm.net`
knows."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from swarm.cli.arguments import Parser, number
from swarm.core import short_id
from swarm.errors import UsageError

DAYS = 90.0

KEYGEN = """\
  swarm-bootstrap keygen our.key                  make a swarm's key: whoever has the file owns the swarm
  swarm-bootstrap keygen --identity my.key        make a peer's own key, and say its id, which the owner needs for an invitation
"""

INVITE = """\
  swarm-bootstrap invite 12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN --swarm-key our.key --out theirs.invitation
then there:
  swarm-serve MODEL --swarm-key theirs.invitation --identity my.key --initial-peers ADDR
"""

REVOKE = """\
  swarm-bootstrap revoke 12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN --swarm-key our.key
"""


def run_command(name: str, argv: Sequence[str]) -> int:
    """Raises UsageError."""
    parser, act = COMMANDS[name]
    return act(parser().read(argv))


def _keygen_parser() -> Parser:
    it = Parser("swarm-bootstrap keygen", "Make the key of a private swarm, or a peer's own.", KEYGEN)
    it.add_argument("file", nargs="?", metavar="FILE", help="where the swarm's key goes; it must not be there yet")
    it.add_argument("--identity", metavar="FILE", help="a peer's key file instead, made if it is not there: says its peer id")
    it.common(hidden=False)
    return it


def _keygen(args: Any) -> int:
    from swarm.net.identity import Identity
    from swarm.net.members import SwarmKey

    if (args.file is None) == (args.identity is None):
        raise UsageError("name one file: that of the swarm's new key, or with --identity that of a peer's own")
    if args.identity is not None:
        print(Identity.load_or_create(args.identity).peer_id)
        return 0
    SwarmKey.create(args.file)
    print(f"{args.file} is the key of a new private swarm. Keep it: whoever has it owns the swarm, and it cannot be made again.")
    print(f"Its entrance: swarm-bootstrap --swarm-key {args.file}. To let somebody in: swarm-bootstrap invite PEER_ID --swarm-key {args.file}")
    return 0


def _invite_parser() -> Parser:
    it = Parser("swarm-bootstrap invite", "Make a peer, or a client, a member of a private swarm for some time.", INVITE)
    it.add_argument("peer", metavar="PEER_ID", help="whom: `swarm-bootstrap keygen --identity FILE` says it on their machine")
    it.add_argument("--swarm-key", metavar="FILE", required=True, help="the swarm's key")
    it.add_argument("--days", type=number(0.001, 36500, float), default=DAYS, help="for how long")
    it.add_argument("--out", metavar="FILE", help="where the invitation goes (default: the end of the peer id, and .invitation)")
    it.common(hidden=False)
    return it


def _invite(args: Any) -> int:
    from swarm.net.members import SwarmKey, write_invitation

    key, peer = SwarmKey.read(args.swarm_key), _peer(args.peer)
    out = args.out or f"{peer[-6:]}.invitation"
    write_invitation(out, key.invite(peer, args.days, time.time()))
    print(f"{out} invites {short_id(peer)} for {args.days:g} days. It is of no use to anybody else: --swarm-key {out} --identity THEIR_KEY_FILE")
    return 0


def _revoke_parser() -> Parser:
    it = Parser("swarm-bootstrap revoke", "Take a peer's membership of a private swarm back.", REVOKE)
    it.add_argument("peer", metavar="PEER_ID", help="whose; a later invitation is good again")
    it.add_argument("--swarm-key", metavar="FILE", required=True, help="the swarm's key, where its entrance runs: members hear of it from there")
    it.common(hidden=False)
    return it


def _revoke(args: Any) -> int:
    from swarm.net.members import SwarmKey, add_revocation

    key, peer = SwarmKey.read(args.swarm_key), _peer(args.peer)
    beside = add_revocation(args.swarm_key, key.revoke(peer, time.time()))
    print(f"{short_id(peer)} is no member any more. Whoever runs with {args.swarm_key} reads that from {beside} within seconds, and tells whom it meets")
    return 0


def _peer(text: str) -> str:
    from swarm.compose import check_peer_ids

    check_peer_ids([text])
    return text


COMMANDS: dict[str, tuple[Callable[[], Parser], Callable[[Any], int]]] = {
    "keygen": (_keygen_parser, _keygen),
    "invite": (_invite_parser, _invite),
    "revoke": (_revoke_parser, _revoke),
}
