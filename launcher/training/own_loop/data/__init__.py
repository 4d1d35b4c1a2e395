"""The data of a loop that is the script's: where it is, and how it is put back there."""
