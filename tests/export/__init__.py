"""What is handed to arviz."""
