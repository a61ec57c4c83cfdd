"""What both services, and everyone who talks to them, agree on. Imports nothing of ours."""
