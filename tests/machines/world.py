"""A world without sockets or tensors for the real hop room and client machine: a network that loses, repeats, delays and cuts, and a model made of hashes.

The toy model's output at a position depends on every input up to it, so a cache that holds one wrong row gives wrong tokens from there on.

Links keep the order of what is sent, so behind an OPEN nothing of an older chain would ever come from the same neighbour. But a node that was thought dead may
still be heard: what was on the way when a link broke is kept aside here, and arrives when the client has opened another chain.
"""

from __future__ import annotations

import hashlib
import random
from collections import defaultdict, deque
from collections.abc import Sequence

from swarm.core import CLIENT, Hop, PeerId, Sampling, Span
from swarm.machines.client import ClientSession
from swarm.machines.effects import Compute, Deliver, Draw, Prepared, Reroute, Send
from swarm.machines.ledger import CacheLedger
from swarm.machines.limits import HopLimits
from swarm.peer.drafting import Drafter
from swarm.peer.hops import HopKey, HopRoom
from swarm.peer.offer import Offer
from swarm.wire import Blob, Broken, Drawn, Have, Message, Order, Ready, SessionMessage, decode, encode

COMPONENTS = 6
VOCAB = 50
CLIENT_PEER = "client"


def digest(*parts: bytes) -> bytes:
    return hashlib.blake2b(b"|".join(parts), digest_size=8).digest()


def true_tokens(prompt: Sequence[int], count: int) -> list[int]:
    """What the whole toy model answers, one component after the other, without caches."""
    history = list(prompt)
    for _ in range(count):
        rows = [str(token).encode() for token in history]
        for component in range(COMPONENTS - 1):
            state, out = str(component).encode(), []
            for row in rows:
                state = digest(state, row)
                out.append(state)
            rows = out
        history.append(head_draw(rows))
    return history[len(prompt) :]


def head_draw(rows: Sequence[bytes]) -> int:
    state = b"head"
    for row in rows:
        state = digest(state, row)
    return int.from_bytes(state, "big") % VOCAB


class ToyEngine:
    """Jobs and cuts done in order, one at a time, when the world says so. `caches` holds, per component of a hop, its state after every position."""

    def __init__(self, world: World, peer: PeerId) -> None:
        self._world, self._peer = world, peer
        self.queue: deque = deque()
        self.followed: dict[HopKey, int] = {}
        """The chain each hop follows."""
        self.caches: dict[HopKey, list[list[bytes]]] = {}
        self.positions = 0
        """How many positions it has computed, again and again included."""

    def open(self, key: HopKey, order: Order) -> None:
        self.caches.setdefault(key, [[] for _ in range(key.start, key.stop)])
        self.followed[key] = order.chain

    def submit(self, key: HopKey, job: Compute) -> None:
        self.queue.append((key, job))

    def truncate(self, key: HopKey, length: int) -> None:
        self.queue.append((key, length))

    def free(self, key: HopKey) -> None:
        latest = self._world.client.chain
        assert self._world.parting or self.followed[key] != latest, f"{key} of {self._peer} is let go, though it follows the latest chain"
        self.caches.pop(key, None)
        self.queue = deque((other, job) for other, job in self.queue if other != key)

    def work(self) -> None:
        key, job = self.queue.popleft()
        cache = self.caches[key]
        if isinstance(job, int):
            for states in cache:
                del states[job:]
            return
        assert all(len(states) == job.start for states in cache), f"{key} runs {job.start} on a cache of {[len(states) for states in cache]}"
        self.positions += len(job.tokens)
        rows = [str(token).encode() for token in job.tokens]
        if key.start > 0:
            assert job.hidden is not None
            rows = [bytes(job.hidden[at : at + 1].data) for at in range(len(job.hidden))]
        draws: list[Draw] = []
        for component, states in zip(range(key.start, key.stop), cache, strict=True):
            head = component == COMPONENTS - 1
            state = states[-1] if states else (b"head" if head else str(component).encode())
            out = []
            for row in rows:
                state = digest(state, row)
                states.append(state)
                out.append(state)
            rows = out
            if head:
                draws = [Draw(job.start + at + 1, int.from_bytes(out[at], "big") % VOCAB) for at in job.draw]
        blob = None if key.stop == COMPONENTS else Blob("float32", 2, memoryview(b"".join(rows)))
        self._world.rooms[self._peer].finished(key, job.serial, blob, draws, 1)


class Oracle(Drafter):
    """A drafter that knows the answer, and is wrong now and then."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.right = 0.0
        """How often."""
        self.taken = self.furthest = self.wrong = 0
        """Guesses, how far beyond what the client has, and how many were not what is right."""

    def offers(self, tokens: Sequence[int], fresh: Sequence[int], sure: int) -> str | None:
        return "oracle" if self.right else None

    def take(self, tokens: Sequence[int], fresh: Sequence[int], most: int) -> list[int]:
        dice = self._world.random
        right = true_tokens([*tokens, *fresh], min(most, 12))
        guesses = [token if dice.random() < self.right else dice.randrange(VOCAB) for token in right]
        self.taken, self.wrong = self.taken + len(guesses), self.wrong + (guesses != right)
        self.furthest = max(self.furthest, len(tokens) + len(fresh) + len(guesses) - len(self._world.client.history))
        return guesses


class WorldLinks:
    def __init__(self, world: World, peer: PeerId) -> None:
        self._world, self.peer = world, peer

    def learn(self, peer: PeerId, addrs: Sequence[str]) -> None: ...

    def send(self, peer: PeerId, message: Message) -> None:
        self._world.post(self.peer, peer, message)


MISFORTUNES = ("restart", "death", "freeze", "thaw", "evict", "drop", "repeat", "cut", "break")


class World:
    """Peers that hold spans, one client, and everything that can go wrong, drawn from one generator."""

    def __init__(
        self,
        seed: int,
        spans: dict[PeerId, Span],
        *,
        trouble: float = 0.02,
        misfortunes: Sequence[str] = MISFORTUNES,
        own_ends: bool = False,
        rewindable: bool = True,
        preparing: float = 0.0,
    ) -> None:
        self.random = random.Random(seed)
        self.misfortunes = misfortunes
        self.spans = spans
        self.trouble = trouble
        self.own_ends = own_ends
        self.now = 0.0
        self.mail: dict[tuple[PeerId, PeerId], deque[bytes]] = defaultdict(deque)
        self.late: list[tuple[int, PeerId, PeerId, deque[bytes]]] = []
        """What was on links that broke, and with which chain it arrives."""
        self.rooms: dict[PeerId, HopRoom] = {}
        self.engines: dict[PeerId, ToyEngine] = {}
        self.down: set[PeerId] = set()
        self.frozen: set[PeerId] = set()
        self.excused = False
        """Whether the chain may fall silent: somebody froze or forgot a session, or a message was lost that nobody was told of. Deaths and restarts
        excuse nothing, and nothing that happened to one chain excuses the next."""
        self.parting = False
        """Whether hops that follow the latest chain may be let go."""
        self.limits = HopLimits(
            chunk=self.random.choice([1, 3, 8]),
            window=self.random.choice([8, 20]),
            ack_every=2,
            journal_bytes=self.random.choice([24, 80, 10_000]),
            lease=1e9,
        )
        self.rewindable = rewindable
        self.guessing = self.random.choice([0.0, 0.1, 0.3])
        self.oracle = Oracle(self)
        self.telling = 0.0
        """How often the client tells the first hop what it guesses."""
        self.preparing = preparing
        self.flows = False
        """Whether tokens of the latest chain have come home."""
        self.prepared: list[Hop] | None = None
        """The route whose newcomers are being fed."""
        self.changed_over = self.given_up = 0
        for peer in spans:
            self.start(peer)
        if own_ends:
            self.spans = {**spans, CLIENT_PEER: Span(0, COMPONENTS)}
            self.start(CLIENT_PEER)
        self.client = ClientSession(b"s" * 16, CLIENT_PEER, "rev", "float32", credit=self.random.choice([2, 5, 64]))
        self.delivered: list[int] = []
        self.finish: str | None = None
        self.reroutes = 0

    # --- peers --------------------------------------------------------------------------------------------------------------------------------------

    def start(self, peer: PeerId) -> None:
        span = self.spans[peer]
        spans = (span,) if peer != CLIENT_PEER else (Span(0, 1), Span(COMPONENTS - 1, COMPONENTS))
        self.engines[peer] = ToyEngine(self, peer)
        self.rooms[peer] = HopRoom(
            WorldLinks(self, peer),
            self.engines[peer],
            Offer("rev", "float32", COMPONENTS, spans, 10_000, self.rewindable, vocab=VOCAB),
            CacheLedger(100_000, 10),
            clock=lambda: self.now,
            verify=lambda *_: True,
            limits=self.limits,
            drafters=lambda _: (self.oracle,),
            veil=(lambda _, position, token: token ^ (position * 7919 % 2**20)) if peer == CLIENT_PEER else None,
        )

    def post(self, sender: PeerId, to: PeerId, message: Message) -> None:
        if sender in self.down:
            return
        self.mail[sender, to].append(encode(message))

    def cut(self, peer: PeerId, *, keep_mail: bool) -> None:
        """Everybody else's links to a peer are gone; with `keep_mail`, what was on the way still arrives one day."""
        others = [other for other in dict.fromkeys([*self.rooms, CLIENT_PEER]) if other != peer and other not in self.down]
        for other in others:
            self.empty(peer, other, keep_mail=keep_mail)
        for other in others:
            self.tell_lost(other, peer)

    def empty(self, one: PeerId, other: PeerId, *, keep_mail: bool) -> None:
        for pair in (one, other), (other, one):
            if (box := self.mail.pop(pair, None)) and keep_mail:
                self.late.append((self.client.chain + self.random.randint(1, 3), *pair, box))

    def tell_lost(self, who: PeerId, peer: PeerId) -> None:
        if who in self.rooms:
            self.rooms[who].lost(peer)
        if who == CLIENT_PEER:
            self.do(self.client.lost(peer))

    def kill(self, peer: PeerId, *, restart: bool) -> None:
        if restart and peer not in self.down:
            self.start(peer)
        elif not restart:
            self.down.add(peer)
            self.engines[peer].queue.clear()
        self.late = [letters for letters in self.late if letters[2] != peer]
        self.cut(peer, keep_mail=False)

    # --- the client's shell -------------------------------------------------------------------------------------------------------------------------

    def do(self, effects) -> None:
        for effect in effects:
            if isinstance(effect, Send):
                self.post(CLIENT_PEER, effect.peer, effect.message)
            elif isinstance(effect, Deliver):
                self.delivered.append(effect.token)
                self.finish = effect.finish
                self.flows = True
            elif isinstance(effect, Prepared):
                route, self.prepared = self.prepared, None
                self.given_up += bool(effect.reason)
                if route is not None and self.client.running and not effect.reason and self.random.random() < 0.8:
                    self.changed_over += 1
                    self.open(route)
            elif isinstance(effect, Reroute):
                self.reroutes += 1
                self.open(self.client.route if self.random.random() < 0.3 and self.healthy() else self.route())

    def open(self, route: Sequence[Hop]) -> None:
        self.excused = bool(self.frozen)
        self.flows, self.prepared = False, None
        self.do(self.client.open(route))

    def route(self) -> list[Hop]:
        """Any cover by peers that are not known to be gone, cut anywhere."""
        hops, at = [], 0
        ends = {0: 1, COMPONENTS - 1: COMPONENTS} if self.own_ends else {}
        while at < COMPONENTS:
            if at in ends:
                hops.append(Hop(CLIENT_PEER, at, ends[at]))
                at = ends[at]
                continue
            holders = sorted(p for p, s in self.spans.items() if at in s and p not in self.down and p != CLIENT_PEER)
            good = [p for p in holders if p not in self.frozen] or holders
            peer = self.random.choice(good)
            stop = min(self.spans[peer].stop, COMPONENTS - 1 if self.own_ends else COMPONENTS)
            if self.random.random() < 0.3:
                stop = self.random.randint(at + 1, stop)
            if hops and hops[-1].peer == peer:
                hops[-1] = Hop(peer, hops[-1].start, stop)
            else:
                hops.append(Hop(peer, at, stop))
            at = stop
        return hops

    def prepare(self) -> None:
        """Another route, some hop of this one replaced or all of it, as it comes."""
        route = self.route()
        if self.random.random() < 0.5:
            kept = self.random.choice(self.client.route)
            route = [hop for hop in self.client.route if hop.stop <= kept.start] + [hop for hop in self.replaced(kept)]
            route += [hop for hop in self.client.route if hop.start >= kept.stop]
        if effects := self.client.prepare(route):
            self.prepared = route
            self.do(effects)

    def replaced(self, old: Hop) -> list[Hop]:
        """Somebody else for a hop, or the hop itself where there is nobody."""
        others = sorted(p for p, span in self.spans.items() if span.covers(old.span) and p not in self.down and p not in (old.peer, CLIENT_PEER))
        return [Hop(self.random.choice(others), old.start, old.stop)] if others else [old]

    def client_receives(self, sender: PeerId, message: SessionMessage) -> None:
        if isinstance(message, Have):
            self.do(self.client.have(sender, message))
        elif isinstance(message, Drawn):
            self.do(self.client.drawn(sender, message))
        elif isinstance(message, Broken):
            self.do(self.client.broken(sender, message))
        elif isinstance(message, Ready):
            self.do(self.client.ready(sender, message))

    # --- time ---------------------------------------------------------------------------------------------------------------------------------------

    def turn(self, prompt: Sequence[int], count: int, *, enough: int | None = None) -> list[int]:
        """One turn of the conversation, to its end or until that is `enough` tokens, whatever happens meanwhile."""
        self.delivered, self.finish = [], None
        self.client.begin(prompt, Sampling(), count)
        self.open(self.client.route if self.client.route and self.random.random() < 0.7 and self.healthy() else self.route())
        for _ in range(20_000):
            if self.finish is not None or (enough is not None and len(self.delivered) >= enough):
                return self.delivered
            self.tick()
        raise AssertionError(f"no end: {len(self.delivered)} of {count} tokens, route {self.client.route}")

    def healthy(self) -> bool:
        return all(hop.peer not in self.down for hop in self.client.route)

    def tick(self) -> None:
        """One thing happens."""
        self.now += 0.01
        if self.random.random() < self.trouble:
            self.misfortune()
        if self.random.random() < self.guessing:
            self.guess()
        if self.telling and self.random.random() < self.telling and self.client.running:
            right = true_tokens(self.client.history, 4)
            self.do(self.client.guess([token if self.random.random() < 0.8 else self.random.randrange(VOCAB) for token in right]))
        if self.random.random() < self.preparing and self.flows and self.client.running and self.prepared is None:
            self.prepare()
        if not self.happen():
            assert self.excused, "nothing happens any more, though nothing was lost"
            self.thaw_all()
            self.open(self.route())

    def happen(self) -> bool:
        """A message arrives or a job is done, whichever; False if there is neither."""
        boxes = [(sender, to, box) for (sender, to), box in sorted(self.mail.items()) if box]
        boxes += [(sender, to, box) for chain, sender, to, box in self.late if box and chain <= self.client.chain]
        choices: list = [("mail", letter) for letter in boxes if letter[0] not in self.frozen and letter[1] not in self.frozen]
        choices += [("work", peer) for peer, engine in sorted(self.engines.items()) if engine.queue and peer not in self.down and peer not in self.frozen]
        if not choices:
            return False
        kind, what = self.random.choice(choices)
        if kind == "work":
            self.engines[what].work()
        else:
            self.arrive(*what)
        return True

    def settle(self) -> None:
        """All mail is delivered and all work done."""
        while self.happen():
            pass

    def arrive(self, sender: PeerId, to: PeerId, box: deque[bytes]) -> None:
        message = decode(box.popleft())
        if to in self.down:  # a dial that fails is a loss like any other
            self.tell_lost(sender, to)
            return
        if to == CLIENT_PEER and message.to == CLIENT:
            self.client_receives(sender, message)
        else:
            self.rooms[to].receive(sender, message)

    def misfortune(self) -> None:
        peers = sorted(peer for peer in self.spans if peer != CLIENT_PEER)
        boxes = sorted(pair for pair, box in self.mail.items() if box)
        kind = self.random.choice(self.misfortunes)
        peer = self.random.choice(peers)
        if kind == "restart" and peer not in self.frozen | self.down:
            self.kill(peer, restart=True)
        elif kind == "death" and self.covered_without(peer):
            self.kill(peer, restart=False)
        elif kind == "freeze" and len(self.frozen) < 2:
            self.frozen.add(peer)
            self.excused = True
            self.cut(peer, keep_mail=True)
        elif kind == "thaw":
            self.thaw_all()
        elif kind == "evict":
            self.excused = self.parting = True
            for key, _ in self.rooms[peer]._all():
                self.rooms[peer]._forget(key)
            self.parting = False
        elif kind == "drop" and boxes:
            self.mail[self.random.choice(boxes)].popleft()
            self.excused = True
        elif kind == "repeat" and boxes:
            self.excused = True  # an old Grant said again takes credit back; links do not repeat
            box = self.mail[self.random.choice(boxes)]
            box.append(self.random.choice(list(box)))
        elif kind == "cut" and peer not in self.down:
            self.excused = True
            self.cut(peer, keep_mail=self.random.random() < 0.5)
        elif kind == "break" and boxes:
            self.excused = True
            one, other = self.random.choice(boxes)
            self.empty(one, other, keep_mail=True)
            for who, whom in (one, other), (other, one):
                if who not in self.down:
                    self.tell_lost(who, whom)

    def guess(self) -> None:
        """The first hop is asked whether it can guess, and does so, sometimes rightly."""
        right, self.oracle.right = self.oracle.right, 0.7
        for peer, room in sorted(self.rooms.items()):
            for key, hop in room._all():
                if peer in self.down or not hop.is_first or hop.accepted < len(self.client.history) or hop.epoch.chain != self.client.chain:
                    continue
                room._do(key, hop.more())
        self.oracle.right = right

    def holders(self) -> set[tuple[PeerId, int, int]]:
        """Who keeps the session, and over which components."""
        return {(peer, key.start, key.stop) for peer, room in self.rooms.items() for key, _ in room._all()}

    def thaw_all(self) -> None:
        self.frozen.clear()

    def covered_without(self, peer: PeerId) -> bool:
        alive = [span for other, span in self.spans.items() if other not in self.down and other != peer and other != CLIENT_PEER]
        wanted = range(1, COMPONENTS - 1) if self.own_ends else range(COMPONENTS)
        return all(any(component in span for span in alive) for component in wanted)
