"""What nettrace costs, measured beside its peers inside the VMs: `make bench`."""
