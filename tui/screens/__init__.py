"""Screens: each asks for one decision, or shows one thing."""
