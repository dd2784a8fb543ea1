"""Where Jupyter and sandboxes meet: provisioner, relay and kernelspecs."""
