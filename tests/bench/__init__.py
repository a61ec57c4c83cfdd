"""Speed, measured: `make bench`. Every figure stands beside its limit or its plain counterpart, from the same run."""
