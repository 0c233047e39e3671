"""What a lab needs to run SAINT on work pools: deployments, server settings, units; see README.md."""
