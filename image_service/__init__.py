"""The image service: runs image operations against providers, within limits, and records every one."""
