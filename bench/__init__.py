"""What nettrace costs, measured beside its peers inside the VMs; see docs/performance.md."""
