"""How a rank ends: with its peers, at a preemption notice, before its first step."""
