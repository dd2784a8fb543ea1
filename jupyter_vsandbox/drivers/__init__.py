"""What runs machines. A driver is a folder here, or anywhere else with an entry point."""
