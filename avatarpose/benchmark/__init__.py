"""Sequences times methods times seeds, run and set beside each other: `avatarpose benchmark`."""
