"""How a rank becomes a process, and how nothing of it is left behind."""
