"""Reading what other programs have saved, without running what is in it."""
