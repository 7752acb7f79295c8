"""The restic repository format, version 2 (versions 1 and 2 read)."""
