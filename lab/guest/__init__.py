"""What the lab puts into its guests: a workload with a truth kept apart, its hook, and its checks.

The Python files here run inside a guest with the standard library alone; nothing of Lastwrite is imported.
"""
