"""Recovery plans, failover states, drills and failback. Nothing is here yet: see README, 'not there yet'."""
