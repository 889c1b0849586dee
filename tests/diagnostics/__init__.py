"""What a fit is worth, measured: each number against one that is known."""
