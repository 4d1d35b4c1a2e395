"""Write weights for other programs."""
