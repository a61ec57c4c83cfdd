"""The pure core: state, time and ids come in as arguments, data goes out. No I/O."""
