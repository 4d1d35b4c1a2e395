"""Parameters that are stepped whole, each by one rank, where the strategy keeps them in shards."""
