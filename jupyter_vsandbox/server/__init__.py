"""The Jupyter Server extension: what a browser may ask of this project."""
