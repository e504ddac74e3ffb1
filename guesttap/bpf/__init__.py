"""The bpf tap: assembled against the running kernel's own type information, in the standard library alone."""
