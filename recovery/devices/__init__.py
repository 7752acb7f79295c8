"""Block devices and the raw image files that stand for them."""
