"""Exit with 0 if a gRPC health service reports its program as serving: `python -m deploy.flower.health HOST:PORT`."""

from __future__ import annotations

import sys

from deploy.flower.control import grpc_health

if __name__ == "__main__":
    sys.exit(0 if grpc_health(sys.argv[1]) else 1)
