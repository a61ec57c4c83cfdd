"""What we are made of: a bill of materials of the lock file, and whether something in it is known to be vulnerable."""
