"""The small files between the launcher and one rank: whole, or not there."""
