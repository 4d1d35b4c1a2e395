"""When a run saves and what; what it prunes and exports."""
