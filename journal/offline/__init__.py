"""What is done with a journal on its own, with no server and no catalog: check, rescue, info, diff."""
