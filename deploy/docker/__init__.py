"""Images of the two services."""
