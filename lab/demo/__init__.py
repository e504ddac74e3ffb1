"""The demo: a real VM is damaged, and is back at the second before, on another host."""
