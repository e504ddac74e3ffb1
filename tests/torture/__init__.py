"""Tries to break the journal's durability rules: kills, full disks, bit flips, broken connections, power loss."""
