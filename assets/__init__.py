"""Files that ship with the project: the open body and what is drawn from it."""
