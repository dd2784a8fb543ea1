"""What the project talks about: states, records and errors. Standard library only."""
