"""The commands, one file each: the command line becomes calls of the rooms, and what they say becomes text."""
