"""What ``saint doctor`` looks at, a file for each place: the installation, the server, the GPUs, the store."""
