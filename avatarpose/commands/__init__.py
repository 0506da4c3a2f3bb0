"""The commands: options and one call each; torch and what is built on it are imported when a command runs."""
