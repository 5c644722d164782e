"""Parts of networks that more than one recipe uses."""
