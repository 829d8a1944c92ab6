"""What is made for an installation: manual pages, completion and packages."""
