"""nettrace follows packets through the Linux kernel and says where and why they die."""

__version__ = "0.1.0"
