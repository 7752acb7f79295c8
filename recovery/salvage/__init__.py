"""Files from what is broken."""
