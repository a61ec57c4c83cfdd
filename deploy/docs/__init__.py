"""The documentation site: what people wrote, where it stands, beside references that are made from the code."""
