"""Prometheus metrics; importable by all, shown at `/metrics`.

Names carry the unit; labels never hold a repo, path, address or token.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

REGISTRY = CollectorRegistry()

REFUSED = Counter(
    "p2pmodels_refused_requests", "Requests the guard refused", ["code"], registry=REGISTRY
)
ANSWERS = Counter(
    "p2pmodels_answers", "Answers of the local endpoint", ["door", "status"], registry=REGISTRY
)
SERVED_BYTES = Counter(
    "p2pmodels_served_bytes", "Bytes given to local clients", ["source"], registry=REGISTRY
)
RECEIVED_BYTES = Counter(
    "p2pmodels_received_bytes", "Bytes received from sources", ["source"], registry=REGISTRY
)
FETCHES = Counter("p2pmodels_fetches", "Ended fetches", ["outcome"], registry=REGISTRY)
RUNNING = Gauge("p2pmodels_running_fetches", "Fetches that run or wait", registry=REGISTRY)
BLOB_BYTES = Gauge("p2pmodels_blob_bytes", "Bytes of complete blobs", registry=REGISTRY)
PEERS = Gauge("p2pmodels_peers", "LAN peers that answer", registry=REGISTRY)
SHARED_BYTES = Gauge("p2pmodels_shared_bytes", "Bytes uploaded to peers", registry=REGISTRY)
FIRST_BYTE = Histogram(
    "p2pmodels_first_byte_seconds",
    "Time to the first byte of a file answer",
    buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 8),
    registry=REGISTRY,
)


def exposition() -> bytes:
    """The text that Prometheus scrapes."""
    return generate_latest(REGISTRY)
