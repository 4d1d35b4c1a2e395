"""The collective save: plan, write, report, commit."""
