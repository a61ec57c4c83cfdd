"""Providers of image operations, emulated from their documentation: for tests, and for trying the product without keys.

Nothing here knows our services. An emulator is one file and one line in ``registry.py``; it says in its docstring where
the provider documents what it does. All of them share what ``emulation.py`` keeps: the book of jobs with what each is
billed, the faults that were scripted, the clock and the seed.
"""
