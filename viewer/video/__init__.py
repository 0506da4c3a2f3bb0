"""Free-viewpoint video: refined people filmed by cameras that were never there."""
