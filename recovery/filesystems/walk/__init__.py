"""What of a captured filesystem must be in its image, found by other means than those that made its map.

Each module here reads the *view* of one captured partition, in which unused bytes read as zeros and are noted:

allocation   what the filesystem calls allocated: ``dumpe2fs``, ``xfs_db``, ``btrfs inspect-internal``, or, where no
             such tool tells, a reader of our own (FAT, exFAT, NTFS, F2FS)
files        where every file lies: the kernel's FIEMAP on the mounted view, or the same reader
checker      the filesystem's own checker, judged by its exit status, its words, and what it read
"""
