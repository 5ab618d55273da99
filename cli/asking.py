"""Whom a command asks, and how: the options of all that are clients of a swarm, and what `swarm.aio.Client` makes of them."""

from __future__ import annotations

import argparse
from typing import Any

from swarm.cli.arguments import addresses, check_addresses, number
from swarm.cli.notices import whom
from swarm.core import ROUNDED_BITS, check_layers
from swarm.errors import UsageError

DTYPES = ("float32", "bfloat16", "float16")
CLASSES = (*DTYPES, *(f"{dtype}-{method}" for method in ROUNDED_BITS for dtype in DTYPES))


def add_member(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--swarm-key", metavar="FILE", help="key of a private swarm, or its invitation for --identity")
    group.add_argument("--identity", metavar="FILE", help="key file of this client; made if it is not there (default: somebody new each time)")


def member(args: Any) -> dict[str, Any]:
    return {"identity": args.identity, "swarm_key": args.swarm_key}


def add_asking(group: argparse._ArgumentGroup) -> None:
    add_member(group)
    group.add_argument(
        "--dtype", choices=CLASSES, metavar="FORMAT",
        help=f"ask only peers that compute in this format: {', '.join(CLASSES)}; -int8 and -int4 are those that round the weights, who are asked unnamed only "
        "where nobody else serves all layers (default: the fastest)",
    )  # fmt: skip
    group.add_argument(
        "--mixed", action="store_true",
        help="let one chain mix peers that round the weights with others, whoever is fastest: the answer then depends on the route, and where a peer fails "
        "on the way it may go on with other tokens than it would have had",
    )  # fmt: skip
    group.add_argument(
        "--compress", action="store_true",
        help="let peers with slow lines send activations in eight bits: the answer comes sooner, and may have other tokens",
    )  # fmt: skip
    group.add_argument(
        "--own-ends",
        action="store_true",
        help="hold embed and head here: peers get activations, no token ids (needs those weights; no secrecy)",
    )
    group.add_argument("--own-layers", metavar="LAYERS", help="hold these here too, such as 0:2,22:24: layers that touch an end (with --own-ends)")
    group.add_argument(
        "--trust", action="append", metavar="PEER_ID",
        help="let only this peer, and others that are named so, serve the answer (repeatable; ids as swarm-serve prints them)",
    )  # fmt: skip
    group.add_argument(
        "--audit", type=number(0, 1, float), default=0.05, metavar="SHARE",
        help="have this share of what proven peers computed (and more of newcomers) made again by others and compared, 0 for none; shows them some of it",
    )  # fmt: skip
    group.add_argument(
        "--no-speculate", action="store_true",
        help="let the first peer guess no tokens ahead. Guesses change no token of the answer; they make it come sooner where peers are far apart",
    )  # fmt: skip
    group.add_argument(
        "--draft", metavar="MODEL",
        help="a small model with the same tokens, held here, that guesses what comes next and tells the first peer: of use where that one is near",
    )  # fmt: skip


def asking(args: Any) -> dict[str, Any]:
    return {
        **member(args),
        "dtype": args.dtype,
        "mixed": args.mixed,
        "compress": args.compress,
        "own_ends": args.own_ends,
        "own_layers": args.own_layers,
        "trust": addresses(args.trust),
        "audit": args.audit,
        "speculate": not args.no_speculate,
        "draft": args.draft,
    }


def whom_of(args: Any) -> list[str]:
    """The initial peers; none for a swarm of one's own (`--local`). Says what can be said of whom an answer may pass before anything is loaded: raises
    UsageError."""
    from swarm.compose import check_peer_ids

    given, trust = addresses(args.initial_peers), check_peer_ids(addresses(args.trust))
    if args.own_layers is not None:
        check_layers(args.own_layers)
    if args.own_layers and not args.own_ends:
        raise UsageError("--own-layers are kept beside embed and head: say --own-ends too, or leave them out")
    if args.local is None:
        check_addresses(given)
        return whom(given, ", or start some on this machine with --local 3")
    if given:
        raise UsageError("--local starts a swarm of its own, so it cannot join --initial-peers; leave out one of the two")
    if trust:
        raise UsageError("the peers of --local are your own, so nobody needs to be named with --trust; leave out one of the two")
    if args.swarm_key is not None:
        raise UsageError("--local starts a swarm of its own, in which nobody needs a key; leave out --swarm-key")
    return []
