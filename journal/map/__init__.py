"""From a point to the place of every block of a disk, and what differs between two points."""
