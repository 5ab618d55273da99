"""The room `gateway`, its meters for Prometheus. A registry of its own, so that several gateways can live in one process."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from swarm.client.overview import Overview

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
TOKEN_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)


class Meters:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("swarm_gateway_requests", "Requests that are over", ["path", "status"], registry=self.registry)
        self.interrupted = Counter("swarm_gateway_interrupted", "Answers that broke off after their first token, by why", ["code"], registry=self.registry)
        self.prompt_tokens = Counter("swarm_gateway_prompt_tokens", "Tokens of prompts", registry=self.registry)
        self.tokens = Counter("swarm_gateway_tokens", "Tokens of answers", registry=self.registry)
        self.running = Gauge("swarm_gateway_running", "Answers that run now", registry=self.registry)
        self.first = Histogram("swarm_gateway_first_token_seconds", "From a request to its first token", registry=self.registry, buckets=SECONDS)
        self.gap = Histogram("swarm_gateway_token_seconds", "Between two tokens, mean of an answer", registry=self.registry, buckets=TOKEN_SECONDS)
        self.peers = Gauge("swarm_peers", "Peers that announce themselves, by state", ["state"], registry=self.registry)
        self.missing = Gauge(
            "swarm_missing_components", "Of embed, layers and head those that nobody serves, in the most complete class", registry=self.registry
        )
        self.thin = Gauge("swarm_thin_components", "Those that one peer alone serves", registry=self.registry)
        self.sessions = Gauge("swarm_sessions", "Sessions that peers announce to hold, summed over the peers", registry=self.registry)
        self.free = Gauge("swarm_free_cache_tokens", "Positions of cache that peers announce to be free, summed over the peers", registry=self.registry)

    def look(self, seen: Overview) -> None:
        self.peers.clear()
        for peer in seen.peers:
            self.peers.labels(peer.state).inc()
        holders = seen.covers[0].holders if seen.covers else (0,) * seen.components
        self.missing.set(holders.count(0))
        self.thin.set(holders.count(1))
        self.sessions.set(sum(peer.sessions for peer in seen.peers))
        self.free.set(sum(peer.free_tokens for peer in seen.peers))

    def text(self) -> bytes:
        return generate_latest(self.registry)
