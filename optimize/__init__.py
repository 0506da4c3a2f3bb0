"""Refinement: avatars and poses fitted to the images and masks of a sequence."""
