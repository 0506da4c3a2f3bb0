"""Refinement: avatars and poses fitted in turn to the images and masks of a sequence."""
