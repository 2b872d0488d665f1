from tests.faults.hospital import tiny

__all__ = ["tiny"]
