"""Several nodes: meet, agree, lose one, elect a leader."""
