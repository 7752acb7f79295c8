"""What a filesystem is, and which extents of it are used."""
