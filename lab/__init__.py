"""The test lab: two libvirt hosts and real Debian guests on one small machine."""
