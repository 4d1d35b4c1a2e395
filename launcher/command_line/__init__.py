"""Words to options."""
