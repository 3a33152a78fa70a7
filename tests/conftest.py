"""What holds for every test: no network beyond this machine, no hub, one thread a worker."""

from __future__ import annotations

import os
import socket
from typing import Any

import pytest

# Before any test imports the hub's or torch's modules, which read these once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

_LOOPBACK = ("127.", "::1", "localhost")


@pytest.fixture(autouse=True)
def _closed_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections leave this machine in no test; a test that tries fails with the address."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        if isinstance(address, tuple) and not str(address[0]).startswith(_LOOPBACK):
            raise AssertionError(f"a test tried to reach {address}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)
