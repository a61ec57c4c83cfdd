"""A few months as finance lives them: what was sent at random, what it must come to, and every way to ask for it."""
