"""The import of ALwrity's SQLite files: finding and copying them, reading their rows, recording what they say."""
