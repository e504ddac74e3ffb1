"""One adapter per hypervisor behind one contract (`hypervisors.base`)."""
