"""What a filesystem is, and which extents of it are used."""

from recovery.filesystems.usage import Method, Usage, used_extents

__all__ = ["Method", "Usage", "used_extents"]
