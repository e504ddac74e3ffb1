"""The data taps: the agent in the guest, its deployment, and the receiver on the appliance."""
