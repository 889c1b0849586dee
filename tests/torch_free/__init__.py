"""Exported dictionaries, read by whichever arviz is installed, with or without torch."""
