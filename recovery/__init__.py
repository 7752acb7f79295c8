"""Bare-metal recovery: whole disks in a restic repository.

Words
-----
disk            a whole block device, or a raw image file standing for one
partition       a range of a disk named by its partition table
extent          a half-open byte range ``[offset, offset + length)``
used extents    what a filesystem holds data in; everything else need not be read
chunk           a fixed-size piece of a disk, aligned to its offset, named by the SHA-256 of its content
blob, pack, index, snapshot, tree
                as in restic's repository format, version 2
repository      a restic-format store
system image    a snapshot of whole disks; a file snapshot is a snapshot of files
source, target  what is read; what is overwritten
plan            the reviewable list of what an operation will read and overwrite, made before it starts

The data path
-------------
::

    capture   disk -> used extents -> chunks -> packs -> repository
    restore   repository -> packs -> chunks -> extents -> disk

Imports point one way only::

    errors, units < extent < progress < command < devices < filesystems < repository < image < cli
"""

__version__ = "0.1.0"
