"""The system image: a snapshot of whole disks."""
